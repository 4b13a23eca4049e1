"""Who asks a bucket is found in the environment alone where that suffices, as botocore would find it; and left to botocore everywhere else."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

from ci_modelcache.errors import AccessDenied
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.stores.s3_account import Surroundings
from ci_modelcache.stores.s3_session import account_of
from ci_modelcache.transfer.retry import RetryPolicy
from tests.contracts.store import get, put
from tests.contracts.store import keys as keys_of
from tests.parts.servers import ADMIN, BUCKET, REGION

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.stores.s3_account import Account
    from tests.parts.servers import S3Server

KEYS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without files of AWS, and no variables of it; returns the home."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED", *KEYS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def known(account: Account) -> tuple[Any, ...]:
    keys: Any = account.credentials and account.credentials.get_frozen_credentials()
    signing = (keys.access_key, keys.secret_key, keys.token)
    return signing, account.region, account.endpoint_url, account.ca_bundle, account.is_special


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"AWS_SESSION_TOKEN": "a-token"},
        {"AWS_SECURITY_TOKEN": "an-older-token", "AWS_SESSION_TOKEN": "a-token"},
        {"AWS_SESSION_TOKEN": ""},
        {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-north-1"},
        {"AWS_ENDPOINT_URL": "http://host:1"},
        {"AWS_ENDPOINT_URL": "http://host:1", "AWS_ENDPOINT_URL_S3": "http://host:2"},
        {"AWS_ENDPOINT_URL": "http://host:1", "AWS_ENDPOINT_URL_S3": ""},
        {"AWS_CA_BUNDLE": "/etc/ca.pem", "AWS_EC2_METADATA_DISABLED": "true", "AWS_PAGER": ""},
        {"AWS_DEFAULT_REGION": ""},
    ],
)
def test_the_environment_says_what_botocore_makes_of_it(monkeypatch: pytest.MonkeyPatch, more: dict[str, str]) -> None:
    for name, value in (KEYS | more).items():
        monkeypatch.setenv(name, value)
    found = Surroundings(KEYS | more).account()
    assert found is not None
    theirs = known(account_of(botocore.session.get_session()))
    assert known(found) == tuple(each or None if isinstance(each, str) else each for each in theirs)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"AWS_ACCESS_KEY_ID": "an-id"},
        {**KEYS, "AWS_SECRET_ACCESS_KEY": ""},
        {**KEYS, "AWS_PROFILE": "another"},
        {**KEYS, "AWS_PROFILE": ""},
        {**KEYS, "AWS_CREDENTIAL_EXPIRATION": "2027-01-01T00:00:00Z"},
        {**KEYS, "AWS_CONFIG_FILE": "/somewhere"},
        {**KEYS, "AWS_USE_FIPS_ENDPOINT": "true"},
        {**KEYS, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        {**KEYS, "AWS_WHATEVER_COMES": "1"},
    ],
)
def test_what_is_not_understood_is_left_to_botocore(environ: dict[str, str]) -> None:
    assert Surroundings(environ).account() is None


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_a_file_of_aws_is_read_by_botocore(bare: Path, name: str) -> None:
    (bare / ".aws").mkdir()
    (bare / ".aws" / name).write_text("[default]\nregion = eu-west-1\n")
    assert Surroundings(KEYS).account() is None


def test_keys_are_not_shown() -> None:
    surroundings = Surroundings(KEYS)
    account = surroundings.account()
    assert account is not None
    told = repr((surroundings, account, account.credentials))
    assert not any(value in told for value in KEYS.values() if value != "an-id")


def opened(server: S3Server, keys: dict[str, str]) -> S3Store:
    return S3Store(
        BUCKET,
        "account",
        endpoint_url=server.endpoint,
        region=REGION,
        retry=RetryPolicy(attempts=1),
        role=Surroundings(keys),
    )


def test_a_store_is_read_and_written_with_the_keys_that_are_given(
    monkeypatch: pytest.MonkeyPatch, seaweedfs_server: S3Server
) -> None:
    keys = dict(zip(KEYS, ADMIN, strict=True))
    store = opened(seaweedfs_server, keys)
    put(store, "small", b"0123456789")
    assert get(store, "small") == b"0123456789"
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    assert keys_of(store, "") == ["small"]  # by botocore's client


def test_keys_that_are_refused_are_no_miss(seaweedfs_server: S3Server) -> None:
    with pytest.raises(AccessDenied):
        get(opened(seaweedfs_server, KEYS), "small")


def test_botocores_session_is_not_imported_for_keys_in_the_environment(seaweedfs_server: S3Server) -> None:
    code = (
        "import sys; from ci_modelcache.stores.locations import open_store; from ci_modelcache.transfer.retry import RetryPolicy; "
        "from ci_modelcache.stores.s3_account import Surroundings; "
        f"store = open_store('s3://{BUCKET}/none', endpoint_url='{seaweedfs_server.endpoint}', region='{REGION}', "
        f"retry=RetryPolicy(attempts=1), role=lambda: Surroundings({dict(zip(KEYS, ADMIN, strict=True))})); "
        "\ntry: store.stat('nothing')"
        "\nexcept Exception as error: print(type(error).__name__)"
        "\nprint(sorted({'botocore.session', 'botocore.client', 'botocore.credentials'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split("\n")[:2] == ["ObjectNotFound", "[]"]
