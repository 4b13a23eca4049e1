"""What is remembered of files that were proven, and every way in which a memory must not outlive the bytes."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import AccessDenied, ObjectNotFound, Unavailable
from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.transfer import receipts as receipts_module
from ci_modelcache.transfer.land import land
from ci_modelcache.transfer.receipts import FORGETFUL, FileState, Receipts, check_file
from ci_modelcache.transfer.remembered import Remembered
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from ci_modelcache.model.digest import Fingerprint

DATA = b"weights" * 10_000
SHA256 = Digest.of(DATA)
EXPECTED = Expected(len(DATA), sha256=SHA256)
OTHER = b"WEIGHTS" * 10_000
DAY = 86_400.0
LONG_AGO = 1_000_000_000


def at(seconds: float) -> Callable[[], float]:
    """A clock that stands still."""
    return lambda: seconds


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "receipts.sqlite"


@pytest.fixture
def receipts(database: Path) -> Iterator[Receipts]:
    with closing(Receipts(database)) as receipts:
        yield receipts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that has just landed."""
    path = tmp_path / "file"
    land([DATA], path, EXPECTED)
    return path


@pytest.fixture
def proven(file: Path, receipts: Receipts) -> Path:
    """A file with a receipt."""
    receipts.remember(file, SHA256)
    assert receipts.proven(file, EXPECTED)
    return file


# When a receipt holds


def test_a_file_is_proven_from_landing_on(proven: Path, receipts: Receipts) -> None:
    assert check_file(proven, EXPECTED, receipts) == FileState("proven")


def test_a_receipt_is_for_one_digest_and_one_size(proven: Path, receipts: Receipts) -> None:
    assert not receipts.proven(proven, Expected(len(DATA), sha256=Digest.of(OTHER)))
    assert not receipts.proven(proven, Expected(len(DATA) + 1, sha256=SHA256))


def test_a_receipt_says_nothing_of_a_git_name(proven: Path, receipts: Receipts) -> None:
    """A promise of both is kept only by computing the one that is not remembered."""
    both = Expected(len(DATA), sha256=SHA256, git_oid="0" * 40)
    assert not receipts.proven(proven, both)
    assert check_file(proven, both, receipts).defect == "digest"


def test_a_receipt_follows_the_file_to_another_name(proven: Path, receipts: Receipts, tmp_path: Path) -> None:
    """A rename moves the ctime, so that even here the bytes are looked at again."""
    moved = tmp_path / "moved"
    with receipts.carrying(proven, EXPECTED):
        proven.rename(moved)
    assert check_file(moved, EXPECTED, receipts).status == "proven"
    moved.rename(proven)
    assert check_file(proven, EXPECTED, receipts).status == "verified"


def write_in_place(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.write(OTHER)


def write_and_restore_the_mtime(path: Path) -> None:
    before = path.stat()
    write_in_place(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_and_restore_the_mtime(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(OTHER)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def write_through_another_name(path: Path) -> None:
    other = path.with_name("other")
    other.hardlink_to(path)
    write_in_place(other)


@pytest.mark.parametrize(
    "change", [write_in_place, write_and_restore_the_mtime, replace_and_restore_the_mtime, write_through_another_name]
)
def test_a_changed_file_is_never_proven(proven: Path, receipts: Receipts, change: Callable[[Path], None]) -> None:
    change(proven)
    assert not receipts.proven(proven, EXPECTED)
    assert check_file(proven, EXPECTED, receipts) == FileState("different", "digest", SHA256.hex, Digest.of(OTHER).hex)


def test_a_write_in_the_tick_of_the_landing_is_noticed(receipts: Receipts, tmp_path: Path) -> None:
    """As fast as it can be done, many times: within one tick of the kernel's clock ctime alone would not tell."""
    for attempt in range(50):
        path = tmp_path / f"file-{attempt}"
        land([DATA], path, EXPECTED)
        receipts.remember(path, SHA256)
        write_in_place(path)
        assert not receipts.proven(path, EXPECTED)


def test_landing_leaves_an_mtime_that_a_later_write_cannot_repeat(file: Path) -> None:
    """`Receipts.note` relies on it: mtime and ctime of a landed file differ, those of a written one are equal."""
    assert file.stat().st_mtime_ns < file.stat().st_ctime_ns


def test_a_file_written_by_others_is_remembered_only_when_its_last_write_is_long_past(
    file: Path, database: Path
) -> None:
    """Git's racily clean entries: a second write within the tick of the first one leaves no trace in its times."""
    write_in_place(file)
    written = file.stat()
    assert written.st_mtime_ns == written.st_ctime_ns
    expected = Expected(len(OTHER), sha256=Digest.of(OTHER))
    for later, status in ((0.0, "verified"), (1.9, "verified"), (2.1, "proven")):
        with closing(Receipts(database, clock=at(written.st_ctime_ns / 10**9 + later))) as receipts:
            assert check_file(file, expected, receipts).status == "verified"
            receipts.remember(file, Digest.of(OTHER))
            assert check_file(file, expected, receipts).status == status


def test_a_disk_that_counts_in_seconds_gets_receipts_late(database: Path, file: Path) -> None:
    """There a tool has a whole second in which to write and put the mtime back."""
    nanoseconds = {"st_mtime_ns": (LONG_AGO - 5) * 10**9, "st_ctime_ns": LONG_AGO * 10**9}
    seen = os.stat_result(tuple(file.stat()), nanoseconds)
    for later, status in ((1.0, False), (3.0, True)):
        with closing(Receipts(database)) as receipts:
            receipts.note(file, SHA256, seen, began=LONG_AGO + later)
            assert receipts.fits(seen, EXPECTED) is status


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    file: Path, receipts: Receipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = receipts_module.fingerprint

    def meddle(*given: object) -> object:
        found = real(*given)  # type: ignore[arg-type]  # passed on as they came
        write_and_restore_the_mtime(file)
        return found

    monkeypatch.setattr(receipts_module, "fingerprint", meddle)
    assert check_file(file, EXPECTED, receipts).status == "verified"
    monkeypatch.undo()
    assert check_file(file, EXPECTED, receipts).status == "different"


# Carrying a receipt over a change of metadata


def test_a_receipt_is_carried_over_links_modes_and_times(proven: Path, receipts: Receipts, tmp_path: Path) -> None:
    def link() -> None:
        (tmp_path / "link").hardlink_to(proven)

    for change in (link, lambda: proven.chmod(0o444), lambda: os.utime(proven, (LONG_AGO, LONG_AGO))):
        before = proven.stat().st_ctime_ns
        with receipts.carrying(proven, EXPECTED):
            change()
        assert proven.stat().st_ctime_ns != before
        assert receipts.proven(proven, EXPECTED)


def test_a_receipt_that_did_not_hold_is_not_renewed(proven: Path, receipts: Receipts) -> None:
    """Otherwise carrying would bless whatever happened before it."""
    write_and_restore_the_mtime(proven)
    with receipts.carrying(proven, EXPECTED):
        proven.chmod(0o444)
    assert not receipts.proven(proven, EXPECTED)


def test_a_writer_that_has_the_file_open_already_costs_the_receipt(proven: Path, receipts: Receipts) -> None:
    """It may write within the block and nothing would show it: the ctime moves anyway."""
    with proven.open("r+b") as writer, receipts.carrying(proven, EXPECTED):
        writer.write(OTHER)
        writer.flush()
        os.utime(proven, (LONG_AGO, LONG_AGO))
    assert not receipts.proven(proven, EXPECTED)


def test_a_writer_that_comes_meanwhile_costs_the_receipt_and_does_not_kill_us(proven: Path, receipts: Receipts) -> None:
    """The kernel signals the holder of a lease when somebody wants to write; the default signal would end the process."""
    with receipts.carrying(proven, EXPECTED):
        with pytest.raises(BlockingIOError):
            os.open(proven, os.O_WRONLY | os.O_NONBLOCK)
        proven.chmod(0o644)
    assert not receipts.proven(proven, EXPECTED)
    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL


def test_a_disk_without_leases_costs_the_receipt(
    proven: Path, receipts: Receipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and others refuse them."""
    real = fcntl.fcntl

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETLEASE:
            raise OSError(22, "Invalid argument")
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with receipts.carrying(proven, EXPECTED):
        proven.chmod(0o444)
    assert not receipts.proven(proven, EXPECTED)
    assert check_file(proven, EXPECTED, receipts).status == "verified"


def test_a_failure_in_the_block_passes_and_renews_nothing(proven: Path, receipts: Receipts, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()

    def change() -> None:
        proven.chmod(0o444)
        taken.hardlink_to(proven)

    with pytest.raises(FileExistsError), receipts.carrying(proven, EXPECTED):
        change()
    assert not receipts.proven(proven, EXPECTED)
    with pytest.raises(FileNotFoundError), receipts.carrying(tmp_path / "absent", EXPECTED):
        (tmp_path / "absent").chmod(0o644)


# The four answers of check_file


def test_a_file_is_missing_different_or_verified(file: Path, receipts: Receipts, tmp_path: Path) -> None:
    assert check_file(tmp_path / "absent", EXPECTED, receipts) == FileState("missing")
    assert check_file(file / "below", EXPECTED, receipts) == FileState("missing")
    longer = Expected(len(DATA) + 1, sha256=SHA256)
    assert check_file(file, longer, receipts) == FileState("different", "size", "70001", "70000")
    assert check_file(file, EXPECTED, receipts) == FileState("verified")
    assert check_file(file, EXPECTED, receipts) == FileState("proven")
    assert [check_file(file, one, receipts).good for one in (EXPECTED, longer)] == [True, False]


def test_a_git_name_alone_is_checked(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"Hello, World!")
    right = "b45ef6fec89518d314f546fd6c3025367b721684"
    assert check_file(small, Expected(13, git_oid=right), FORGETFUL).good
    assert check_file(small, Expected(13, git_oid="0" * 40), FORGETFUL) == FileState(
        "different", "digest", "0" * 40, right
    )


def test_a_link_is_right_only_where_links_are(proven: Path, receipts: Receipts, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(proven)
    state = check_file(link, EXPECTED, receipts)
    assert str(state) == "different: expected kind a regular file, got a symbolic link"
    assert check_file(link, EXPECTED, receipts, links=True).status == "proven"
    proven.unlink()
    assert check_file(link, EXPECTED, receipts, links=True).status == "missing"
    proven.symlink_to(link)
    assert check_file(link, EXPECTED, receipts, links=True).defect == "kind"


def test_what_is_no_file_is_different_and_is_not_waited_for(receipts: Receipts, tmp_path: Path) -> None:
    """Opening a FIFO waits for a writer, who may never come."""
    os.mkfifo(tmp_path / "fifo")
    assert check_file(tmp_path / "fifo", EXPECTED, receipts).actual == "a special file"
    assert check_file(tmp_path, EXPECTED, receipts).actual == "a folder"


def test_a_file_that_may_not_be_read_is_neither_missing_nor_different(file: Path, receipts: Receipts) -> None:
    file.chmod(0)
    with unprivileged(), pytest.raises(AccessDenied, match=r"cannot read .*file: Permission denied") as raised:
        check_file(file, EXPECTED, receipts)
    assert raised.value.hint == "run as the user who owns it, or change its permissions"


def test_a_file_that_the_disk_cannot_deliver_is_neither_missing_nor_different(
    file: Path, receipts: Receipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dying disk is no reason to call the bytes wrong."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(receipts_module, "fingerprint", fail)
    with pytest.raises(Unavailable, match=r"cannot read .*file: Input/output error") as raised:
        check_file(file, EXPECTED, receipts)
    assert raised.value.hint == "check the disk that it is on"


def test_a_file_that_grows_while_it_is_hashed_is_different(
    file: Path, receipts: Receipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = receipts_module.fingerprint

    def grow(opened: FileIO, expected: Expected) -> Fingerprint:
        with file.open("ab") as more:
            more.write(b"x")
        return real(opened, expected)

    monkeypatch.setattr(receipts_module, "fingerprint", grow)
    assert check_file(file, EXPECTED, receipts) == FileState("different", "size", "70000", "70001")


def test_a_file_that_is_not_there_has_no_receipt_and_gets_none(receipts: Receipts, tmp_path: Path) -> None:
    """A socket has none either: only the bytes of regular files stay the same when nobody writes."""
    absent, listening = tmp_path / "absent", tmp_path / "socket"
    receipts.remember(absent, SHA256)
    assert not receipts.proven(absent, EXPECTED)
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(os.path.relpath(listening)))
        receipts.remember(listening, SHA256)
        assert check_file(listening, EXPECTED, receipts).actual == "a socket"


# The database


def test_receipts_last_longer_than_the_process(proven: Path, database: Path, receipts: Receipts) -> None:
    receipts.close()
    with closing(Receipts(database)) as later:
        assert later.proven(proven, EXPECTED)
    assert receipts.proven(proven, EXPECTED)


def test_many_threads_and_processes_share_one_database(database: Path, tmp_path: Path) -> None:
    """None of them has to do without, and none loses what another noted, in batches that meet all the time."""
    script = """
import sys
from pathlib import Path
from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.transfer.land import land
from ci_modelcache.transfer import remembered
from ci_modelcache.transfer.receipts import Receipts
remembered._BATCH = 3
database, folder = map(Path, sys.argv[1:])
receipts = Receipts(database)
data = b"weights" * 10_000
for number in range(40):
    land([data], folder / str(number), Expected(len(data), sha256=Digest.of(data)))
    receipts.remember(folder / str(number), Digest.of(data))
receipts.close()
"""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-W", "error", "-c", script, str(database)]
    others = [subprocess.Popen([*command, str(folder)], stderr=subprocess.PIPE, text=True) for folder in folders]
    assert [(other.communicate(timeout=60)[1], other.returncode) for other in others] == [("", 0)] * len(folders)
    paths = [folder / str(number) for folder in folders for number in range(40)]
    with closing(Receipts(database)) as receipts, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda path: check_file(path, EXPECTED, receipts).status == "proven", paths))


# Receipts in batches

SMALL = (5_000, 1, 2, SHA256.hex)
"""A receipt of a small file."""


class Watch:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def remembered(database: Path, watch: Watch) -> Iterator[Remembered]:
    """A memory that has just written its first receipt."""
    with closing(Remembered(database, timer=watch)) as remembered:
        remembered.keep_receipt(("1", "0"), SMALL, database)
        yield remembered


def kept(database: Path) -> int:
    """How many receipts another process finds."""
    with closing(sqlite3.connect(database)) as db:
        return int(db.execute("SELECT count(*) FROM receipts").fetchone()[0])


def statements(remembered: Remembered) -> list[str]:
    """What SQLite is told from now on."""
    told: list[str] = []
    assert remembered._connection is not None
    remembered._connection.set_trace_callback(told.append)
    return told


def test_the_first_receipt_is_written_at_once(remembered: Remembered, database: Path) -> None:
    assert remembered.receipt(("1", "0")) == SMALL
    assert kept(database) == 1


def test_a_thousand_small_files_take_two_transactions(remembered: Remembered, database: Path) -> None:
    told = statements(remembered)
    for number in range(1, 1001):
        remembered.keep_receipt(("1", str(number)), SMALL, database)
    assert [one for one in told if not one.startswith("INSERT")] == ["BEGIN IMMEDIATE", "COMMIT"] * 2
    assert kept(database) == 1001


def test_a_receipt_that_waits_holds_already(remembered: Remembered, database: Path) -> None:
    remembered.keep_receipt(("1", "1"), SMALL, database)
    assert kept(database) == 1
    assert remembered.receipt(("1", "1")) == SMALL


def test_a_large_file_waits_for_nobody_as_it_takes_long_to_hash(remembered: Remembered, database: Path) -> None:
    remembered.keep_receipt(("1", "1"), SMALL, database)
    remembered.keep_receipt(("1", "2"), (64 * 1024 * 1024, 1, 2, SHA256.hex), database)
    assert kept(database) == 3


def test_no_receipt_waits_for_others_that_come_slowly(remembered: Remembered, database: Path, watch: Watch) -> None:
    remembered.keep_receipt(("1", "1"), SMALL, database)
    watch.seconds += 1
    remembered.keep_receipt(("1", "2"), SMALL, database)
    assert kept(database) == 3


@pytest.mark.parametrize("end", [Remembered.close, Remembered.flush])
def test_what_waits_is_written_at_the_end(
    remembered: Remembered, database: Path, end: Callable[[Remembered], None]
) -> None:
    remembered.keep_receipt(("1", "1"), SMALL, database)
    end(remembered)
    assert kept(database) == 2


def test_the_newest_receipt_of_a_batch_counts(remembered: Remembered, database: Path) -> None:
    newer = (7, 8, 9, SHA256.hex)
    remembered.keep_receipt(("1", "1"), SMALL, database)
    remembered.keep_receipt(("1", "1"), newer, database)
    remembered.flush()
    assert remembered.receipt(("1", "1")) == newer


def test_a_snapshot_that_is_noted_every_minute_is_written_once_a_day(database: Path) -> None:
    now = [1000 * DAY]
    with closing(Remembered(database, clock=lambda: now[0])) as remembered:
        remembered.keep_manifest("/models", "a@1", b"{}", "hash")
        told = statements(remembered)
        for _ in range(5):
            now[0] += 60
            remembered.keep_manifest("/models", "a@1", b"{}", "hash")
        assert {one.partition(" ")[0] for one in told} == {"SELECT"}
        now[0] += DAY
        remembered.keep_manifest("/models", "a@1", b"{}", "hash")
        assert sum(one.startswith("UPDATE") for one in told) == 1


def test_a_batch_waits_for_a_process_that_is_writing(database: Path, remembered: Remembered) -> None:
    with closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        timer.start()
        remembered.keep_receipt(("1", "1"), SMALL, database)
        remembered.flush()
        timer.join()
    assert kept(database) == 2


LANDING_AND_DYING = """
import os, signal, sys
from pathlib import Path
from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.transfer import remembered
from ci_modelcache.transfer.land import land
from ci_modelcache.transfer.receipts import Receipts
database, folder, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
os.fsync = lambda _: None
remembered._BATCH, remembered._DELAY = 50, 1e9
receipts = Receipts(database)
data = b"weights" * 10_000
for number in range(last + 1):
    land([data], folder / str(number), Expected(len(data), sha256=Digest.of(data)))
    if number == last:
        os.kill(os.getpid(), signal.SIGKILL)
    receipts.remember(folder / str(number), Digest.of(data))
"""


@pytest.mark.parametrize("last", [0, 1, 50, 77, 101])
def test_a_kill_between_a_file_and_its_receipt_costs_a_hash_and_nothing_else(
    database: Path, tmp_path: Path, last: int
) -> None:
    folder = tmp_path / "landed"
    folder.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", LANDING_AND_DYING, str(database), str(folder), str(last)], timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    paths = [folder / str(number) for number in range(last + 1)]
    with closing(Receipts(database)) as receipts:
        found = [check_file(path, EXPECTED, receipts, hashing=False).status for path in paths]
        assert set(found) <= {"proven", "unproven"}
        assert found.count("unproven") <= 50
        assert found[-1] == "unproven"
        for path in paths:
            write_and_restore_the_mtime(path)
        assert {check_file(path, EXPECTED, receipts).status for path in paths} == {"different"}


def test_what_nobody_hashes_is_neither_proven_nor_wrong(file: Path, receipts: Receipts, tmp_path: Path) -> None:
    assert check_file(file, EXPECTED, receipts, hashing=False) == FileState("unproven")
    assert not FileState("unproven").good
    assert check_file(tmp_path / "none", EXPECTED, receipts, hashing=False).status == "missing"
    assert check_file(tmp_path, EXPECTED, receipts, hashing=False).status == "different"
    assert not receipts.proven(file, EXPECTED)


def broken(database: Path) -> None:
    database.write_bytes(b"no database at all" * 100)


def torn(database: Path) -> None:
    whole = database.read_bytes()
    database.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))


@pytest.mark.parametrize("damage", [broken, torn])
def test_a_damaged_database_is_set_aside_and_begun_anew(
    proven: Path, database: Path, receipts: Receipts, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    receipts.close()
    damage(database)
    damaged = database.read_bytes()
    with closing(Receipts(database)) as fresh:
        assert check_file(proven, EXPECTED, fresh).status == "verified"
        assert check_file(proven, EXPECTED, fresh).status == "proven"
    assert database.with_name("receipts.sqlite.broken").read_bytes() == damaged
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "is damaged" in record.message
    assert "set aside, files are hashed anew" in record.message


def test_a_damaged_database_that_cannot_be_set_aside_is_left_alone(
    proven: Path, database: Path, receipts: Receipts, caplog: pytest.LogCaptureFixture
) -> None:
    receipts.close()
    broken(database)
    with unprivileged(database.parent), closing(Receipts(database)) as fresh:
        assert check_file(proven, EXPECTED, fresh).status == "verified"
        assert check_file(proven, EXPECTED, fresh).status == "verified"
    assert "nothing is remembered" in caplog.records[-1].message
    assert len(caplog.records) == 2


def a_folder(database: Path) -> None:
    database.mkdir(parents=True)


def below_a_file(database: Path) -> None:
    database.parent.write_bytes(b"")


def of_another_program(database: Path) -> None:
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE precious (x)")
    database.chmod(0o600)


def of_a_later_version(database: Path) -> None:
    with closing(Receipts(database)) as receipts:
        receipts.note_snapshot("a", "b", b"c")
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA user_version = 2")


def writable_by_others(database: Path) -> None:
    with closing(Receipts(database)) as receipts:
        receipts.note_snapshot("a", "b", b"c")
    database.chmod(0o666)


@pytest.mark.parametrize(
    "obstacle", [a_folder, below_a_file, of_another_program, of_a_later_version, writable_by_others]
)
def test_a_database_that_cannot_be_used_means_that_nothing_is_remembered(
    file: Path, database: Path, obstacle: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, never an error, and what is there stays as it is."""
    obstacle(database)
    before = database.read_bytes() if database.is_file() else b""
    with closing(Receipts(database)) as receipts:
        for _ in range(3):
            receipts.remember(file, SHA256)
            assert check_file(file, EXPECTED, receipts).status == "verified"
        receipts.note_snapshot("/models", "snapshot", b"{}")
        with pytest.raises(ObjectNotFound):
            receipts.snapshot_at("/models", "snapshot")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "nothing is remembered, files are hashed anew" in record.message
    assert (database.read_bytes() if database.is_file() else b"") == before


def test_a_read_only_database_means_that_nothing_is_remembered(
    proven: Path, database: Path, receipts: Receipts, caplog: pytest.LogCaptureFixture
) -> None:
    receipts.close()
    with unprivileged(database.parent), closing(Receipts(database)) as fresh:
        database.chmod(0o400)
        assert check_file(proven, EXPECTED, fresh).status == "verified"
        assert check_file(proven, EXPECTED, fresh).status == "verified"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_database_that_another_process_never_unlocks_is_waited_for_once(
    proven: Path, database: Path, receipts: Receipts, caplog: pytest.LogCaptureFixture
) -> None:
    started = time.monotonic()
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(20):
            assert check_file(proven, EXPECTED, receipts).status == "verified"
    assert time.monotonic() - started < 20
    (record,) = caplog.records
    assert "locked" in record.message


def test_the_database_is_for_its_owner_alone(database: Path, proven: Path) -> None:
    assert proven.exists()
    assert database.stat().st_mode & 0o777 == 0o600


def test_receipts_of_vanished_files_are_pruned_once_a_day(database: Path, tmp_path: Path) -> None:
    now = time.time()
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    for path in (kept, gone):
        land([DATA], path, EXPECTED)
    with closing(Receipts(database, clock=at(now))) as receipts:
        receipts.remember(kept, SHA256)
        receipts.remember(gone, SHA256)
        receipts.note_snapshot(str(tmp_path), "old", b"{}")
    gone.unlink()
    for later, rows in ((now + DAY / 2, 2), (now + DAY * 1.1, 1)):
        with closing(Receipts(database, clock=at(later))) as receipts:
            assert receipts.proven(kept, EXPECTED)
            assert receipts.snapshot_at(str(tmp_path), "old") == b"{}"
        with closing(sqlite3.connect(database)) as db:
            assert db.execute("SELECT count(*) FROM receipts").fetchone() == (rows,)
    with closing(Receipts(database, clock=at(now + DAY * 91))) as receipts, pytest.raises(ObjectNotFound):
        receipts.snapshot_at(str(tmp_path), "old")


def test_what_was_published_in_a_folder_that_is_gone_is_pruned(database: Path, tmp_path: Path) -> None:
    now = time.time()
    with closing(Receipts(database, clock=at(now))) as receipts:
        receipts.note_snapshot(str(tmp_path), "stays", b"{}")
        receipts.note_snapshot(str(tmp_path / "job-1"), "goes", b"{}")
    with closing(Receipts(database, clock=at(now + DAY * 1.1))) as receipts:
        assert receipts.snapshot_at(str(tmp_path), "stays") == b"{}"
        with pytest.raises(ObjectNotFound):
            receipts.snapshot_at(str(tmp_path / "job-1"), "goes")


# What was published where


def test_the_manifest_last_published_at_a_destination_is_remembered(receipts: Receipts) -> None:
    receipts.note_snapshot("/models", "a@1", b"first")
    receipts.note_snapshot("/models", "a@2", b"other")
    receipts.note_snapshot("/elsewhere", "a@1", b"elsewhere")
    receipts.note_snapshot("/models", "a@1", b"second")
    receipts.note_snapshot("/models", "a@1", b"second")
    assert receipts.snapshot_at("/models", "a@1") == b"second"
    assert receipts.snapshot_at("/models", "a@2") == b"other"
    assert receipts.snapshot_at("/elsewhere", "a@1") == b"elsewhere"


def test_an_unknown_destination_is_a_miss(receipts: Receipts) -> None:
    with pytest.raises(ObjectNotFound, match="the memory of /models holds no object a@1"):
        receipts.snapshot_at("/models", "a@1")


def test_an_altered_manifest_is_not_returned(receipts: Receipts, database: Path) -> None:
    receipts.note_snapshot("/models", "a@1", b"first")
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("UPDATE manifests SET manifest = x'00'")
    with pytest.raises(ObjectNotFound):
        receipts.snapshot_at("/models", "a@1")


def test_the_forgetful_remember_nothing(file: Path, tmp_path: Path) -> None:
    """They stand in where nobody keeps receipts, and make no file."""
    before = sorted(tmp_path.iterdir())
    FORGETFUL.remember(file, SHA256)
    FORGETFUL.note_snapshot("/models", "a@1", b"first")
    with FORGETFUL.carrying(file, EXPECTED):
        file.chmod(0o600)
    assert check_file(file, EXPECTED, FORGETFUL).status == "verified"
    assert not FORGETFUL.proven(file, EXPECTED)
    with pytest.raises(ObjectNotFound):
        FORGETFUL.snapshot_at("/models", "a@1")
    FORGETFUL.close()
    assert sorted(tmp_path.iterdir()) == before


def test_threads_may_carry_and_check_one_file_at_once(proven: Path, receipts: Receipts, tmp_path: Path) -> None:
    """Whatever the order, no thread sees wrong bytes proven, and nothing breaks."""
    start = threading.Barrier(4)

    def work(number: int) -> str:
        start.wait(10)
        for attempt in range(20):
            with receipts.carrying(proven, EXPECTED):
                (tmp_path / f"link-{number}-{attempt}").hardlink_to(proven)
        return check_file(proven, EXPECTED, receipts).status

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(4))) <= {"proven", "verified"}
    write_in_place(proven)
    assert check_file(proven, EXPECTED, receipts).status == "different"
