from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import BucketMissing, ConfigError
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.locations import Reach, open_store, place_of
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    from pathlib import Path

RETRY = RetryPolicy()


@pytest.mark.parametrize("spelling", ["{}", "file://{}", "FILE://{}", "file://localhost{}"])
def test_a_folder_can_be_written_as_a_path_and_as_a_url(tmp_path: Path, spelling: str) -> None:
    store = open_store(spelling.format(tmp_path / "store"), create=True, retry=RETRY)
    assert isinstance(store, DirectoryStore)
    assert store.url == str(tmp_path / "store")


def test_a_url_may_escape_what_a_path_may_not_hold(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/a%20b%25", create=True, retry=RETRY).url == str(tmp_path / "a b%")


def test_a_relative_path_is_one_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spelling in ("cache", "./cache", "c"):
        assert open_store(spelling, create=True, retry=RETRY).url == str(tmp_path / spelling)


def test_a_folder_is_made_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(BucketMissing):
        open_store(str(tmp_path / "store"), retry=RETRY)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://models", "s3://models"),
        ("s3://models/", "s3://models"),
        ("S3://models/ci/cache", "s3://models/ci/cache"),
        ("s3://models/ci/cache/", "s3://models/ci/cache"),
    ],
)
def test_a_bucket_is_written_with_or_without_a_prefix(url: str, shown: str) -> None:
    assert open_store(url, endpoint_url="http://127.0.0.1:1", region="eu-west-1", retry=RETRY).url == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gs://models/x",
        "http://host/models",
        "s3:models",
        "s3:/models",
        "s3://",
        "s3:///prefix",
        "s3://models//prefix",
        "s3://models/../other",
        "s3://models/a b",
        "s3://models?endpoint=x",
        "file://host/folder",
        "file:folder",
        "file:///folder?x",
    ],
)
def test_what_is_no_store_is_refused_with_how_to_write_one(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url, endpoint_url="http://127.0.0.1:1", retry=RETRY)
    assert caught.value.hint
    assert "Traceback" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [("s3://AKIDKEY:verysecret@models/x", None), ("s3://models/x", "http://user:verysecret@127.0.0.1:1")],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str, endpoint: str | None) -> None:
    with pytest.raises(ConfigError, match="holds credentials") as caught:
        open_store(url, endpoint_url=endpoint, retry=RETRY)
    assert "verysecret" not in f"{caught.value.message} {caught.value.hint}"
    assert "AWS_ACCESS_KEY_ID" in str(caught.value.hint)


# --- what a URL says besides


def test_a_url_says_how_its_store_is_reached() -> None:
    query = "endpoint_url=https%3A%2F%2Fs3.example%3A9000&region=eu-west-1&profile=ci%20jobs&ca_bundle=/etc/ca.pem"
    assert Reach.parse(query) == Reach("https://s3.example:9000", "eu-west-1", "ci jobs", "/etc/ca.pem")
    assert Reach.parse("endpoint_url=https://s3.example:9000") == Reach("https://s3.example:9000")
    assert Reach.parse("") == Reach()


def test_what_a_url_says_stands_above_what_is_said_elsewhere_and_is_not_shown() -> None:
    url = "s3://models/ci/?endpoint_url=http://127.0.0.1:1&region=eu-west-1"
    store = open_store(url, endpoint_url="http://127.0.0.1:2", region="us-west-2", retry=RETRY)
    assert isinstance(store, S3Store)
    assert store.url == "s3://models/ci"
    client = store._bucket.client()
    assert (client.meta.endpoint_url, client.meta.region_name) == ("http://127.0.0.1:1", "eu-west-1")


def test_an_empty_endpoint_is_aws_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:3")
    store = open_store("s3://models?endpoint_url=&region=eu-west-1", endpoint_url="http://127.0.0.1:2", retry=RETRY)
    assert isinstance(store, S3Store)
    assert store._bucket.client().meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("endpoint=https://s3.example", "unknown: 'endpoint'"),
        ("aws_secret_access_key=verysecret", "unknown: 'aws_secret_access_key'"),
        ("region=a&region=b", "region twice"),
        ("region=", "no usable region"),
        ("region=eu west", "no usable region"),
        ("profile=", "no usable profile"),
        ("ca_bundle=ca.pem", "no usable ca_bundle"),
        ("endpoint_url=s3.example", "no usable endpoint_url"),
        ("endpoint_url=https://s3.example/?verysecret", "no usable endpoint_url"),
        ("endpoint_url=https://user:verysecret@s3.example", "holds credentials"),
    ],
)
def test_what_a_url_must_not_say_is_refused_and_no_value_is_repeated(query: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        open_store(f"s3://models/x?{query}", retry=RETRY)
    assert caught.value.hint
    assert "verysecret" not in f"{caught.value.message} {caught.value.hint}"


def test_two_urls_of_one_store_have_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("./a/", endpoint_url=None) == place_of(f"file://{tmp_path}/a", endpoint_url="http://x")
    assert place_of("s3://b/p/?region=x", endpoint_url="http://x/") == place_of(
        "s3://b/p?endpoint_url=http://x", endpoint_url=None
    )
    assert place_of("s3://b/p", endpoint_url=None) != place_of("s3://b/p", endpoint_url="http://x")
    assert place_of("s3://b/p?endpoint_url=", endpoint_url="http://x") == place_of("s3://b/p", endpoint_url=None)


def test_a_folder_needs_no_botocore() -> None:
    script = (
        "import sys, ci_modelcache.stores.locations, ci_modelcache.stores.probe; sys.exit('botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
