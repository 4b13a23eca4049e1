"""What a save asks of a real store, counted: nothing is looked for twice, sent twice or hashed to be sent."""

from __future__ import annotations

import hashlib
import itertools
import os
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import DigestMismatch
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Fingerprint
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.sources.offline import Offline
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.restore import restore
from ci_modelcache.verbs.save import SaveReport, save
from ci_modelcache.verbs.step import Step
from ci_modelcache.verbs.wanted import RestoreOptions
from tests.parts.servers import BUCKET, REGION, login
from tests.parts.verbs import files_in, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.faults import Relay

HOST = "huggingface.co"
REF = ModelRef.parse("acme/saved@v1")
LARGE = os.urandom(LEAF_SIZE + 100)

_prefixes = (f"save-requests-{number}" for number in itertools.count())


def few() -> dict[str, bytes]:
    return {"model.safetensors": LARGE, "config.json": os.urandom(10), "sub/vocab.txt": os.urandom(3000)}


def many() -> dict[str, bytes]:
    return {f"part-{number % 3}/{number:03}.json": b"%d" % number for number in range(60)}


@pytest.fixture
def cache(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> ModelCache:
    login(monkeypatch)
    retry = RetryPolicy(4, base=0.01, cap=0.05, deadline=Deadline(60))
    return ModelCache(
        S3Store(BUCKET, next(_prefixes), endpoint_url=relay.endpoint, region=REGION, retry=retry), retry=retry
    )


def saved(folder: Path, cache: ModelCache) -> SaveReport:
    step = Step(folder / "state", retry=cache.retry, workers=4)
    return save(folder / "model", REF, host=HOST, selection=Selection(), cache=cache, step=step)


def of_blobs(relay: Relay, method: str) -> int:
    """How many requests with *method* named a blob, or a part of one."""
    return relay.count(method, "/blobs/sha256/")


@pytest.mark.parametrize("files", [few(), many()], ids=["few", "many"])
def test_a_second_save_asks_at_most_once_for_each_file(
    cache: ModelCache, relay: Relay, tmp_path: Path, files: dict[str, bytes]
) -> None:
    write_files(tmp_path / "model", files)
    first = saved(tmp_path, cache)
    assert first.bytes_uploaded == sum(map(len, files.values()))
    relay.seen.clear()
    again = saved(tmp_path, cache)
    assert (again.manifest, again.bytes_uploaded) == (first.manifest, 0)
    assert of_blobs(relay, "HEAD") <= len(files)
    assert (of_blobs(relay, "GET"), of_blobs(relay, "PUT"), of_blobs(relay, "POST")) == (0, 0, 0)
    assert len(relay.seen) <= len(files) + 16
    folder = tmp_path / "restored"
    restore(
        REF,
        PlainLayout(folder),
        cache=cache,
        upstream=Offline(HOST),
        step=Step(tmp_path / "state", retry=cache.retry),
        options=RestoreOptions(),
    )
    assert {path: data for path, data in files_in(folder).items() if not path.startswith(".ci-")} == files


def test_many_files_are_stored_by_one_request_each_and_a_few_for_all(
    cache: ModelCache, relay: Relay, tmp_path: Path
) -> None:
    initialise(cache)
    relay.seen.clear()
    write_files(tmp_path / "model", many())
    saved(tmp_path, cache)
    assert of_blobs(relay, "PUT") == len(many())
    assert of_blobs(relay, "HEAD") == 0
    assert len(relay.seen) <= len(many()) + 32


def test_files_with_the_same_bytes_are_sent_once(cache: ModelCache, relay: Relay, tmp_path: Path) -> None:
    write_files(tmp_path / "model", {f"{number}.bin": b"the same" for number in range(20)})
    assert saved(tmp_path, cache).bytes_uploaded == len(b"the same")
    assert of_blobs(relay, "PUT") == 1


def test_a_large_file_that_changed_in_its_second_leaf_is_not_stored(cache: ModelCache, relay: Relay) -> None:
    """It is compared leaf by leaf while it is sent; the parts that were right are given back."""
    digest = Digest.of(LARGE)
    leaf_list = "".join(
        hashlib.sha256(LARGE[start : start + LEAF_SIZE]).hexdigest() + "\n" for start in (0, LEAF_SIZE)
    ).encode()
    with Publication(cache) as publication:
        publication.announce([digest])
        with pytest.raises(DigestMismatch):
            publication.put_known(
                Fingerprint(len(LARGE), digest, None, leaf_list),
                [LARGE[:-1], b"x" if LARGE[-1:] != b"x" else b"y"],
                what="x",
            )
        assert not publication.has_blob(digest, len(LARGE))
    assert relay.count("DELETE", digest.hex) == 1
