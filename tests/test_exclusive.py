"""`exclusive`: one at a time, across processes, never for ever, and never in the way."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import filelock
import pytest

from ci_modelcache.errors import DeadlineExceeded
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.exclusive import exclusive
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from pathlib import Path

_HOLD = """
import sys
from pathlib import Path
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.exclusive import exclusive

with exclusive(sys.argv[1], folder=Path(sys.argv[2]), deadline=Deadline()):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(name: str, folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, name, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_waits_until_the_deadline_and_says_for_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = holder("/models/a", tmp_path)
    try:
        impatient = exclusive("/models/a", folder=tmp_path, deadline=Deadline(0.3))
        with pytest.raises(DeadlineExceeded, match="another process that works on /models/a") as caught, impatient:
            pass
        assert caught.value.exit_code == 15
        assert "waiting for another process" in caplog.text
        with exclusive("/models/b", folder=tmp_path, deadline=Deadline(0)):
            pass  # another name is another lock
    finally:
        process.communicate("", timeout=20)


def test_who_has_only_so_much_patience_goes_on_without_the_lock_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = holder("a", tmp_path)
    try:
        process.send_signal(signal.SIGSTOP)
        with exclusive("a", folder=tmp_path, deadline=Deadline(), patience=0.2):
            assert "working on a without a lock: its holder has not gone on for 0.2 s" in caplog.text
        with (
            pytest.raises(DeadlineExceeded),
            exclusive("a", folder=tmp_path, deadline=Deadline(0.1), patience=20),
        ):
            pass
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate("", timeout=20)


@pytest.mark.parametrize("end", ["well", "killed"])
def test_the_lock_is_free_when_its_holder_ends(tmp_path: Path, end: str) -> None:
    process = holder("a", tmp_path)
    taken = threading.Event()

    def take() -> None:
        with exclusive("a", folder=tmp_path, deadline=Deadline(20)):
            taken.set()

    waiting = threading.Thread(target=take)
    waiting.start()
    assert not taken.wait(0.2)
    if end == "killed":
        process.send_signal(signal.SIGKILL)
    process.communicate("", timeout=20)
    assert taken.wait(20)
    waiting.join(20)


def test_a_failure_inside_passes_through_and_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive("a", folder=tmp_path, deadline=Deadline(0)):
        raise KeyError
    with exclusive("a", folder=tmp_path, deadline=Deadline(0)):
        pass


def test_any_text_is_a_name(tmp_path: Path) -> None:
    for name in ("/" * 300, "..", "é\n", ""):
        with exclusive(name, folder=tmp_path / "locks", deadline=Deadline(0)):
            assert len(list((tmp_path / "locks").iterdir())) >= 1
    assert all(path.suffix == ".lock" for path in (tmp_path / "locks").iterdir())


def test_where_no_lock_can_be_made_the_work_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    with unprivileged(tmp_path), exclusive("a", folder=tmp_path / "locks", deadline=Deadline(0)):
        done.append("denied")
    (tmp_path / "file").write_bytes(b"")
    with exclusive("a", folder=tmp_path / "file", deadline=Deadline(0)):
        done.append("a file is in the way")

    class Lockless(filelock.UnixFileLock):
        """As filelock does it on a disk that knows no locks."""

        def _acquire(self) -> None:
            raise NotImplementedError("no flock here")  # filelock's own words are none of ours

    monkeypatch.setattr(filelock, "FileLock", Lockless)
    with exclusive("a", folder=tmp_path / "locks", deadline=Deadline(0)):
        done.append("a disk without locks")
    assert len(done) == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
