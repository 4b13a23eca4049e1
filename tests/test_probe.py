from __future__ import annotations

import itertools
import json
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import AccessDenied, ObjectNotFound
from ci_modelcache.model.document import to_plain
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.probe import RACES, WRITERS, Capabilities, probe
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.retry import RetryPolicy
from tests.contracts.store import keys, put
from tests.parts.faults import Fault, relaying
from tests.parts.servers import BUCKET, READER, REGION, login

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import _GeneratorContextManager
    from pathlib import Path

    from ci_modelcache.stores.protocol import ObjectInfo
    from tests.parts.servers import S3Server

_prefixes = map("probed-{}".format, itertools.count())
GOOD = Capabilities(create_only="atomic", list_after_write=True, ranged_reads=True, deletes=True, checksums="unused")


@pytest.fixture
def folder(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", create=True)


def s3(endpoint: str) -> S3Store:
    retry = RetryPolicy(attempts=4, base=0.01, cap=0.05)
    return S3Store(BUCKET, next(_prefixes), endpoint_url=endpoint, region=REGION, retry=retry)


def test_a_folder_can_do_all_of_it(folder: DirectoryStore) -> None:
    assert probe(folder, random=os.urandom) == GOOD


def test_seaweedfs_can_do_all_of_it_and_verifies_checksums(
    seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    found = probe(s3(seaweedfs_server.endpoint), random=os.urandom)
    assert (found.create_only, found.list_after_write, found.ranged_reads, found.deletes) == (
        "atomic",
        True,
        True,
        True,
    )
    assert found.checksums == "verified"


def test_rclone_is_found_to_ignore_conditions_and_checksums(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    found = probe(s3(rclone_server.endpoint), random=os.urandom)
    assert (found.create_only, found.list_after_write, found.ranged_reads, found.deletes) == (
        "ignored",
        True,
        True,
        True,
    )
    assert found.checksums == "ignored"


def test_a_server_that_refuses_checksums_is_found_out(
    seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    refused = b"<Error><Code>NotImplemented</Code></Error>"
    with relaying(seaweedfs_server.port) as relay:
        relay.faults = [Fault("answer", "PUT", "x-amz-checksum-sha256", status=501, body=refused, times=999)]
        found = probe(s3(relay.endpoint), random=os.urandom)
    assert found.checksums == "refused"
    assert found.create_only == "atomic"


def test_a_probe_leaves_nothing_behind_and_touches_nothing_else(folder: DirectoryStore) -> None:
    put(folder, "modelcache.json", b"{}")
    put(folder, "probe/other/x", b"x")
    probe(folder, random=os.urandom)
    assert keys(folder, "") == ["modelcache.json", "probe/other/x"]


def test_what_was_found_is_plain_json(folder: DirectoryStore) -> None:
    plain = to_plain(probe(folder, random=os.urandom))
    assert {type(value) for value in plain.values()} == {str, bool}
    assert json.loads(json.dumps(plain)) == plain


def test_the_random_folder_is_the_one_given(tmp_path: Path) -> None:
    class Watched(DirectoryStore):
        written: set[str]

        def write(
            self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
        ) -> None:
            self.written = {*getattr(self, "written", set()), key.rpartition("/")[0].split("/")[1]}
            super().write(key, chunks, size=size, create_only=create_only, sums=sums)

    store = Watched(tmp_path / "store", create=True)
    probe(store, random=bytes)
    assert store.written == {"00" * 16}


def test_a_store_that_may_only_be_read_is_denied(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    login(monkeypatch, READER)
    with pytest.raises(AccessDenied):
        probe(s3(seaweedfs_server.endpoint), random=os.urandom)


# Stores that misbehave


class Racy(DirectoryStore):
    """Looks first and writes then: all who look at the same time win."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, create=True)
        self._looked = threading.Barrier(WRITERS)

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        if create_only and "race" in key:
            self._looked.wait(30)
            create_only = False
        super().write(key, chunks, size=size, create_only=create_only, sums=sums)


class Patient(DirectoryStore):
    """Answers the first writer of a key that is raced for when all such keys have one."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, create=True)
        self._all = threading.Barrier(RACES)
        self._begun: set[str] = set()
        self._lock = threading.Lock()

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        if create_only and "race" in key:
            with self._lock:
                first = key not in self._begun
                self._begun.add(key)
            if first:
                self._all.wait(20)
        super().write(key, chunks, size=size, create_only=create_only, sums=sums)


class Lagging(DirectoryStore):
    """Lists what was there before the last write."""

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(list(super().scan(prefix))[:-1])


class Rangeless(DirectoryStore):
    """Sends the whole object whatever was asked for."""

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> _GeneratorContextManager[Iterator[bytes]]:
        del start, stop
        return super().read(key)


class Keeping(DirectoryStore):
    """Says that it deleted."""

    def delete(self, key: str) -> None:
        """Do nothing."""


def test_a_store_where_two_win_a_race_is_racy(tmp_path: Path) -> None:
    assert probe(Racy(tmp_path / "store"), random=os.urandom).create_only == "racy"


def test_all_races_are_run_at_once_so_that_a_server_that_lets_losers_wait_does_so_once(tmp_path: Path) -> None:
    assert probe(Patient(tmp_path / "store"), random=os.urandom).create_only == "atomic"


def test_a_store_that_lists_late_is_found_out(tmp_path: Path) -> None:
    assert not probe(Lagging(tmp_path / "store", create=True), random=os.urandom).list_after_write


def test_a_store_that_ignores_ranges_is_found_out(tmp_path: Path) -> None:
    assert not probe(Rangeless(tmp_path / "store", create=True), random=os.urandom).ranged_reads


def test_a_server_that_ignores_ranges_is_found_out(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    login(monkeypatch)
    with relaying(seaweedfs_server.port) as relay:
        relay.faults = [Fault("answer", "GET", "/ranged", status=200, body=bytes(4096), times=99)]
        found = probe(s3(relay.endpoint), random=os.urandom)
    assert not found.ranged_reads


def test_a_store_that_does_not_delete_is_found_out(tmp_path: Path) -> None:
    assert not probe(Keeping(tmp_path / "store", create=True), random=os.urandom).deletes


def test_an_object_that_cannot_be_found_again_is_a_failure_of_the_store_and_no_finding(tmp_path: Path) -> None:
    class Forgetful(DirectoryStore):
        def read(
            self, key: str, *, start: int = 0, stop: int | None = None
        ) -> _GeneratorContextManager[Iterator[bytes]]:
            del start, stop
            raise ObjectNotFound(key, self.url)

    with pytest.raises(ObjectNotFound):
        probe(Forgetful(tmp_path / "store", create=True), random=os.urandom)
