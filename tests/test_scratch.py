"""A folder for one command, of which nothing stays."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import ConfigError
from ci_modelcache.transfer.scratch import PREFIX, scratch
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO = 1_600_000_000_123_456_789


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    folder.mkdir()
    os.utime(folder, ns=(LONG_AGO, LONG_AGO))
    return folder


def test_it_is_in_the_first_folder_that_takes_it_and_for_its_user_alone(parent: Path, tmp_path: Path) -> None:
    full = tmp_path / "read-only"
    full.mkdir()
    with unprivileged(full), scratch([tmp_path / "absent", full, parent, tmp_path]) as folder:
        assert folder.parent == parent
        assert folder.name.startswith(PREFIX)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("ending", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
def test_it_is_gone_however_the_work_ends_and_does_not_show_in_the_folder_above(
    parent: Path, ending: type[BaseException]
) -> None:
    def work() -> None:
        with scratch([parent]) as folder:
            (folder / "locks").mkdir()
            (folder / "locks" / "a.lock").write_bytes(b"")
            raise ending

    with pytest.raises(ending):
        work()
    assert list(parent.iterdir()) == []
    assert parent.stat().st_mtime_ns == LONG_AGO


def test_a_thread_that_is_left_behind_does_not_keep_it(parent: Path) -> None:
    """It writes on while everything is removed."""
    stop = threading.Event()

    def write(folder: Path) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            try:
                (folder / f"note-{count}").write_bytes(b"")
            except FileNotFoundError:
                return

    with scratch([parent]) as folder:
        thread = threading.Thread(target=write, args=(folder,))
        thread.start()
    try:
        assert not folder.exists()
    finally:
        stop.set()
        thread.join()


def test_one_that_cannot_be_removed_is_told(
    parent: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_arguments, **_options: None)
    with scratch([parent]) as folder:
        pass
    assert caplog.messages == [f"{folder}.gone could not be removed, and stays"]


def test_above_it_another_users_time_stays_as_it_is(parent: Path) -> None:
    """As of /tmp, for all but root."""
    parent.chmod(0o1777)
    os.chown(parent, 12345, 12345)
    with unprivileged(), scratch([parent]):
        pass
    assert parent.stat().st_mtime_ns != LONG_AGO
    assert list(parent.iterdir()) == []


def test_when_no_folder_takes_it_each_is_named_and_what_to_set(parent: Path, tmp_path: Path) -> None:
    with unprivileged(parent), pytest.raises(ConfigError) as raised, scratch([tmp_path / "absent", parent]):
        pytest.fail("there is no such folder")
    assert raised.value.message == (
        f"no folder takes the notes of this run: {tmp_path}/absent: No such file or directory; {parent}: Permission denied"
    )
    assert "CI_MODELCACHE_STATE" in (raised.value.hint or "")
