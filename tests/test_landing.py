"""A file that is written in any order comes to its place whole or not at all, whoever still writes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from ci_modelcache.errors import ConfigError, NoSpace, Unavailable
from ci_modelcache.transfer.land import PREFIX, Ended, Landing, abandon, sweep

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 3_000_000
DATA = os.urandom(SIZE)


def landing_in(folder: Path, *, size: int = SIZE, mode: int = 0o644, mtime: int | None = None) -> Landing:
    return Landing(folder / "model" / "a.bin", size, mode=mode, staging=folder / "staging", mtime=mtime)


def test_what_is_written_in_any_order_is_the_file(tmp_path: Path) -> None:
    landing = landing_in(tmp_path, mode=0o755)
    landing.write(1_000_000, DATA[1_000_000:])
    landing.write(0, DATA[:1_000_000])
    assert b"".join(landing.read(0, SIZE)) == DATA
    assert not landing.target.exists()
    landing.land()
    assert landing.target.read_bytes() == DATA
    assert stat.S_IMODE(landing.target.stat().st_mode) == 0o755
    assert list((tmp_path / "staging").iterdir()) == []


def test_its_time_is_not_that_of_its_last_change(tmp_path: Path) -> None:
    """Receipts rely on it."""
    landing = landing_in(tmp_path, size=0)
    landing.land()
    seen = landing.target.stat()
    assert seen.st_mtime_ns < seen.st_ctime_ns


def test_it_has_the_time_that_it_is_to_have(tmp_path: Path) -> None:
    landing = landing_in(tmp_path, size=0, mtime=1_700_000_000)
    landing.land()
    assert landing.target.stat().st_mtime_ns == 1_700_000_000 * 10**9


def test_data_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append("sync")
        sync(descriptor)

    def named(source: str, target: Path) -> None:
        calls.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    landing_in(tmp_path, size=0).land()
    assert calls == ["sync", "name"]


def test_what_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    landing = landing_in(tmp_path)
    landing.write(0, DATA)
    landing.discard()
    landing.discard()
    assert list((tmp_path / "staging").iterdir()) == []
    assert not landing.target.exists()


@pytest.mark.parametrize("end", ["discard", "land"])
def test_who_goes_on_after_the_end_reaches_no_file(tmp_path: Path, end: str) -> None:
    """The number of the descriptor may be another file's by now."""
    landing = landing_in(tmp_path)
    getattr(landing, end)()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(Ended):
            landing.write(0, b"late")
        with pytest.raises(Ended):
            list(landing.read(0, 4))
        with pytest.raises(Ended):
            landing.land()
    finally:
        os.close(other)
    assert (tmp_path / "other").read_bytes() == b""


def test_a_write_that_is_under_way_when_it_ends_still_has_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing = landing_in(tmp_path)
    began, release = threading.Event(), threading.Event()
    write = os.pwrite

    def slowly(descriptor: int, data: bytes, offset: int) -> int:
        began.set()
        release.wait(30)
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", slowly)
    thread = threading.Thread(target=landing.write, args=(0, b"late"))
    thread.start()
    began.wait(30)
    landing.discard()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    release.set()
    thread.join()
    os.close(other)
    assert (tmp_path / "other").read_bytes() == b""


def test_a_full_disk_is_told_when_the_room_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "ioctl", full)
    with pytest.raises(NoSpace):
        landing_in(tmp_path)
    assert list((tmp_path / "staging").iterdir()) == []


def test_room_is_reserved_before_the_first_byte(tmp_path: Path) -> None:
    landing = landing_in(tmp_path)
    (staged,) = (tmp_path / "staging").iterdir()
    assert staged.stat().st_blocks * 512 >= SIZE
    landing.discard()


def test_a_disk_that_reserves_no_room_is_written_once_and_not_twice(tmp_path: Path) -> None:
    """The C library would write to every page of the file instead: over a network that is the whole file once more."""
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(tmp_path)], check=True)
    try:
        landing = landing_in(tmp_path)
        (staged,) = (tmp_path / "staging").iterdir()
        assert staged.stat().st_blocks == 0
        landing.write(0, DATA)
        landing.land()
        assert landing.target.read_bytes() == DATA
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_giving_up_on_a_broken_disk_hides_no_error(tmp_path: Path) -> None:
    landing = landing_in(tmp_path)
    (staged,) = (tmp_path / "staging").iterdir()
    staged.unlink()
    staged.mkdir()  # cannot be unlinked, as nothing can be on a disk that is gone
    landing.discard()
    with pytest.raises(Ended):
        landing.write(0, DATA)


def test_something_in_its_place_is_left_there(tmp_path: Path) -> None:
    landing = landing_in(tmp_path, size=0)
    (landing.target / "folder").mkdir(parents=True)
    with pytest.raises(ConfigError):
        landing.land()
    landing.discard()
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_staged_file_that_somebody_cut_short_is_no_end_of_file(tmp_path: Path) -> None:
    landing = landing_in(tmp_path)
    (staged,) = (tmp_path / "staging").iterdir()
    os.truncate(staged, 10)
    with pytest.raises(Unavailable, match="cut short"):
        list(landing.read(0, SIZE))
    landing.discard()


def test_what_a_live_process_is_writing_is_not_swept_and_is_removed_at_its_end(tmp_path: Path) -> None:
    landing = landing_in(tmp_path)
    assert sweep(tmp_path / "staging") == 0
    assert [path.name.startswith(PREFIX) for path in (tmp_path / "staging").iterdir()] == [True]
    abandon()
    assert list((tmp_path / "staging").iterdir()) == []
    landing.discard()
