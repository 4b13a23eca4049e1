from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import AccessDenied, AlreadyExists, BucketMissing, ConfigError, NoSpace, Unavailable
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.protocol import OnDisk
from tests.contracts.store import StoreContract, breaking, get, keys, put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.stores.protocol import Store


class TestDirectoryStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return DirectoryStore(tmp_path / "store", create=True)

    @pytest.fixture
    def homeless(self, tmp_path: Path) -> Store:
        store = DirectoryStore(tmp_path / "unmounted", create=True)
        (tmp_path / "unmounted").rmdir()
        return store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root, create=True)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Nobody may enter *folder*, not even root, who becomes nobody for that time."""
    user = os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_missing_folder_is_a_missing_bucket_unless_it_is_to_be_made(root: Path) -> None:
    with pytest.raises(BucketMissing, match="there is no folder") as caught:
        DirectoryStore(root, create=False)
    assert "ci-modelcache fetch" in str(caught.value.hint)
    assert not root.exists()
    DirectoryStore(root, create=True)
    assert DirectoryStore(root, create=False).url == str(root)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for create in (False, True):
        with pytest.raises(ConfigError, match="file"):
            DirectoryStore(tmp_path / "file", create=create)
    with pytest.raises(ConfigError):
        DirectoryStore(tmp_path / "file" / "below", create=True)


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = DirectoryStore(Path("store"), create=True)
    monkeypatch.chdir("/")
    put(store, "a", b"x")
    assert (tmp_path / "store" / "a").read_bytes() == b"x"


def test_the_key_is_the_path(store: DirectoryStore, root: Path) -> None:
    put(store, "blobs/sha256/ab/abcd", b"bytes")
    assert isinstance(store, OnDisk)
    assert store.path("blobs/sha256/ab/abcd") == root / "blobs/sha256/ab/abcd"
    assert (root / "blobs/sha256/ab/abcd").read_bytes() == b"bytes"
    assert store.path("not/there") == root / "not/there"


def test_nobody_may_write_into_an_object(store: DirectoryStore, root: Path) -> None:
    put(store, "a/b", b"x")
    put(store, "a/c", b"x", create_only=True)
    assert [(root / name).stat().st_mode & 0o777 for name in ("a/b", "a/c")] == [0o444, 0o444]


def test_replacing_an_object_does_not_change_a_hard_link_to_it(
    store: DirectoryStore, root: Path, tmp_path: Path
) -> None:
    put(store, "a", b"old")
    (tmp_path / "link").hardlink_to(root / "a")
    put(store, "a", b"new")
    assert (tmp_path / "link").read_bytes() == b"old"


def test_nothing_is_left_in_staging_and_staging_is_never_listed(store: DirectoryStore, root: Path) -> None:
    put(store, "a", b"x")
    put(store, "b", b"x", create_only=True)
    with pytest.raises(AlreadyExists):
        put(store, "b", b"y", create_only=True)
    with pytest.raises(RuntimeError):
        store.write("c", breaking([b"1"], RuntimeError()), size=2)
    assert files(root) == ["a", "b"]
    (root / ".staging" / "left").write_bytes(b"x")
    assert keys(store, "") == ["a", "b"]
    assert keys(store, ".") == []


def test_what_a_killed_writer_left_goes_with_the_first_write_and_a_living_writer_is_left_alone(root: Path) -> None:
    script = """
        import pathlib, sys, time
        from ci_modelcache.stores.directory import DirectoryStore
        def chunks():
            yield b"12345"
            print("writing", flush=True)
            time.sleep(60)
        DirectoryStore(pathlib.Path(sys.argv[1]), create=True).write("never", chunks(), size=10)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(root)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
        assert len(files(root)) == 2
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait(10)
        put(DirectoryStore(root, create=False), "a", b"x")
        assert len(files(root)) == 2, "the living writer's file and the object"
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    put(DirectoryStore(root, create=False), "b", b"x")
    assert files(root) == ["a", "b"]


def test_a_store_whose_staging_cannot_be_swept_still_takes_objects(store: DirectoryStore, root: Path) -> None:
    (root / ".staging").mkdir()
    (root / ".staging" / ".landing-folder").mkdir()
    put(store, "a", b"x")
    assert get(store, "a") == b"x"


def test_of_many_who_create_a_key_at_once_one_wins(store: DirectoryStore) -> None:
    def create(number: int) -> bool:
        try:
            put(store, "ref", b"%d" % number, create_only=True)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = [number for number, wins in enumerate(pool.map(create, range(64))) if wins]
    assert len(won) == 1
    assert get(store, "ref") == b"%d" % won[0]


def test_a_disk_without_hard_links_still_refuses_to_replace(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    put(store, "ref", b"first", create_only=True)
    with pytest.raises(AlreadyExists):
        put(store, "ref", b"second", create_only=True)
    assert get(store, "ref") == b"first"
    assert files(root) == ["ref"]


def test_a_folder_that_may_not_be_entered_is_denied_and_never_missing(store: DirectoryStore, root: Path) -> None:
    put(store, "a/b", b"x")
    with closed(root):
        for verb in (
            lambda: store.stat("a/b"),
            lambda: store.stat("missing"),
            lambda: get(store, "a/b"),
            lambda: put(store, "a/c", b"x"),
            lambda: put(store, "a/b", b"x", create_only=True),
            lambda: store.delete("a/b"),
            lambda: keys(store, ""),
            lambda: DirectoryStore(root, create=False).url,
            lambda: DirectoryStore(root / "below", create=True).url,
        ):
            with pytest.raises(AccessDenied, match="Permission denied") as caught:
                verb()
            assert str(root) in caught.value.message
    assert get(store, "a/b") == b"x"


def test_a_disk_that_cannot_be_read_is_unavailable(store: DirectoryStore, root: Path) -> None:
    # The kernel answers EIO to whoever reads address 0 of its own memory through this file.
    (root / "sick").symlink_to("/proc/self/mem")
    with pytest.raises(Unavailable, match="Input/output error"):
        get(store, "sick")


def test_a_full_disk_is_no_space_and_the_old_object_stays(store: DirectoryStore, root: Path) -> None:
    put(store, "a", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(NoSpace, match="no space left"):
            put(store, "a", bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert get(store, "a") == b"old"
    assert files(root) == ["a"]


def test_a_file_in_the_way_of_a_folder_is_told_and_kept(store: DirectoryStore, root: Path) -> None:
    put(store, "a", b"x")
    put(store, "folder/b", b"x")
    for key in ("a/b", "a/b/c", "folder"):
        for create_only in (False, True):
            with pytest.raises(ConfigError, match="writing") as caught:
                put(store, key, b"y", create_only=create_only)
            assert "in the way" in str(caught.value.hint)
    assert files(root) == ["a", "folder/b"]


def test_what_is_no_object_is_not_listed(store: DirectoryStore, root: Path) -> None:
    put(store, "a/b", b"x")
    (root / "a" / "with space").write_bytes(b"x")
    (root / "lost+found").mkdir(mode=0)
    (root / os.fsdecode(b"\xff")).write_bytes(b"x")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    assert keys(store, "") == ["a/b"]


def test_a_folder_that_is_a_link_to_another_disk_is_listed_like_any(
    store: DirectoryStore, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (root / "blobs").symlink_to(tmp_path / "other")
    put(store, "blobs/x", b"x")
    assert keys(store, "") == ["blobs/x"]
    assert (tmp_path / "other" / "x").read_bytes() == b"x"
