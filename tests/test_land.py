"""A final path only ever holds what it held before or the verified whole, whoever dies on the way."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DigestMismatch,
    IntegrityError,
    ModelCacheError,
    NoSpace,
    SizeMismatch,
    Unavailable,
)
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected
from ci_modelcache.transfer.land import PREFIX, abandon, explaining_full_disk, land, replacing, sweep
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANG = 20.0
OLD, NEW = b"old", b"new bytes"


def expected(data: bytes) -> Expected:
    return Expected(len(data), sha256=Digest.of(data))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that exists already, alone in its folder."""
    path = tmp_path / "out" / "model.bin"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


def test_the_target_changes_at_the_end_and_all_at_once(target: Path) -> None:
    with replacing(target) as file:
        file.write(NEW)
        file.flush()
        assert target.read_bytes() == OLD
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["model.bin"]


def test_folders_that_lack_are_made(tmp_path: Path) -> None:
    land([NEW], tmp_path / "a" / "b" / "c", expected(NEW), staging=tmp_path / "s" / "t")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == NEW
    assert names(tmp_path / "s" / "t") == []


def test_a_file_is_staged_where_it_is_told_to_be(target: Path, tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    with replacing(target, staging=staging) as file:
        file.write(NEW)
        assert [name.startswith(PREFIX) for name in names(staging)] == [True]
        assert names(target.parent) == ["model.bin"]


@pytest.mark.parametrize("wanted", [0o644, 0o755, 0o444, 0o600])
def test_a_file_has_the_mode_that_was_asked_for_whatever_the_umask(wanted: int, target: Path) -> None:
    before = os.umask(0o077)
    try:
        land([NEW], target, expected(NEW), mode=wanted)
    finally:
        os.umask(before)
    assert mode(target) == wanted


def test_a_file_is_readable_for_everybody_when_nothing_is_said(target: Path) -> None:
    """A temporary file is 0600: restored into an image as root, nobody else could read the model."""
    land([NEW], target, expected(NEW))
    assert mode(target) == 0o644


@pytest.mark.parametrize("error", [Unavailable("reset"), KeyboardInterrupt(), GeneratorExit(), SystemExit(1)])
def test_whatever_ends_the_block_leaves_the_target_as_it_was(error: BaseException, target: Path) -> None:
    def write() -> None:
        with replacing(target) as file:
            file.write(NEW)
            raise error

    with pytest.raises(type(error)):
        write()
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.bin"]


def test_a_link_at_the_target_is_replaced_and_not_followed(target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    target.unlink()
    target.symlink_to(outside)
    land([NEW], target, expected(NEW))
    assert not target.is_symlink()
    assert (target.read_bytes(), outside.read_bytes()) == (NEW, OLD)


def test_create_only_takes_a_free_name_and_no_other(target: Path) -> None:
    fresh = target.with_name("fresh")
    for path in (fresh, fresh, target):
        try:
            with replacing(path, create_only=True) as file:
                file.write(NEW)
        except FileExistsError:
            assert path is target or path.read_bytes() == NEW
    assert (fresh.read_bytes(), target.read_bytes()) == (NEW, OLD)
    assert names(target.parent) == ["fresh", "model.bin"]


def test_of_many_that_create_one_file_exactly_one_wins(tmp_path: Path) -> None:
    start, won, lost = threading.Barrier(8, timeout=HANG), [], []

    def create(number: int) -> None:
        start.wait()
        try:
            with replacing(tmp_path / "ref", create_only=True) as file:
                file.write(b"%d" % number)
        except FileExistsError:
            lost.append(number)
        else:
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert (len(won), len(lost)) == (1, 7)
    assert (tmp_path / "ref").read_bytes() == b"%d" % won[0]
    assert names(tmp_path) == ["ref"]


def test_landing_returns_what_was_seen(target: Path) -> None:
    seen = land([NEW[:3], NEW[3:]], target, expected(NEW))
    assert (seen.size, seen.sha256, seen.git_oid) == (len(NEW), Digest.of(NEW), None)


def test_the_leaf_list_of_a_large_file_is_made_unless_nobody_wants_it(tmp_path: Path) -> None:
    chunks, large = [bytes(1 << 20)] * 16 + [b"x"], bytes(LEAF_SIZE) + b"x"
    leaves = "".join(f"{Digest.of(each)}\n" for each in (large[:LEAF_SIZE], b"x")).encode()
    assert land(chunks, tmp_path / "a", expected(large)).leaf_list == leaves
    assert land(chunks, tmp_path / "a", expected(large), leaves=False).leaf_list is None


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ([NEW[:-1]], SizeMismatch),
        ([NEW, b"!"], SizeMismatch),
        ([], SizeMismatch),
        ([NEW[:-1], b"!"], DigestMismatch),
        ([b"", b"\0" * len(NEW)], DigestMismatch),
    ],
    ids=["short", "long", "empty", "flipped", "zeros"],
)
def test_wrong_bytes_never_reach_the_target(chunks: list[bytes], error: type[IntegrityError], target: Path) -> None:
    with pytest.raises(error, match=r"model\.bin: expected "):
        land(chunks, target, expected(NEW))
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.bin"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=50), sent=st.lists(st.binary(max_size=20), max_size=5))
def test_whatever_is_sent_the_target_is_old_or_right(data: bytes, sent: list[bytes], tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    target.write_bytes(OLD)
    try:
        land(sent, target, expected(data))
    except IntegrityError:
        assert target.read_bytes() == OLD
    else:
        assert target.read_bytes() == data == b"".join(sent)
    assert names(tmp_path) == ["model.bin"]


def test_a_full_disk_is_told_as_such_and_left_as_it_was(tmpfs: Path) -> None:
    target = tmpfs / "model.bin"
    target.write_bytes(OLD)
    free = os.statvfs(tmpfs).f_bavail
    for chunk in (1 << 20, 5000):
        data = bytes(2 << 20)
        chunks = (data[start : start + chunk] for start in range(0, len(data), chunk))
        with pytest.raises(
            NoSpace, match=r"^no space left while writing .*model\.bin: No space left on device$"
        ) as caught:
            land(chunks, target, expected(data))
        assert caught.value.hint == "free space there, or restore to another disk"
    assert target.read_bytes() == OLD
    assert names(tmpfs) == ["model.bin"]
    assert os.statvfs(tmpfs).f_bavail == free


def test_a_disk_that_fills_up_with_the_last_buffered_bytes_is_full_too(tmpfs: Path) -> None:
    free = os.statvfs(tmpfs)
    (tmpfs / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize))
    with pytest.raises(NoSpace), replacing(tmpfs / "small") as small:
        small.write(b"fits into the buffer")
    assert names(tmpfs) == ["filler"]


def test_a_limit_on_the_size_of_files_is_no_space(tmp_path: Path) -> None:
    script = (
        "import resource, sys, pathlib\n"
        "from ci_modelcache.errors import NoSpace\n"
        "from ci_modelcache.transfer.land import replacing\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with replacing(pathlib.Path(sys.argv[1])) as file:\n"
        "        file.write(bytes(100_000))\n"
        "except NoSpace as error:\n"
        "    print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "big"], capture_output=True, text=True, check=True, timeout=HANG
    ).stdout
    assert out == f"no space left while writing {tmp_path}/big: File too large\n"
    assert names(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_and_a_full_quota_are_both_no_space(code: int, tmp_path: Path) -> None:
    with pytest.raises(NoSpace), explaining_full_disk(tmp_path):
        raise OSError(code, os.strerror(code))


def test_another_failure_of_a_disk_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"), explaining_full_disk(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_folder_that_may_not_be_written_is_access_denied(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    with (
        unprivileged(closed),
        pytest.raises(AccessDenied, match=r"^cannot write .*model\.bin: .*Permission denied") as caught,
    ):
        land([NEW], closed / "model.bin", expected(NEW))
    assert caught.value.hint == "run as the user who owns the folder, or choose another one"


@pytest.mark.parametrize("place", ["folder", "file/model.bin", "file/a/model.bin"])
def test_something_in_the_way_is_told_with_a_way_out(place: str, tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(ConfigError, match="something else is in its place") as caught:
        land([NEW], tmp_path / place, expected(NEW), staging=tmp_path / "staging")
    assert caught.value.hint == "move that away, or choose another folder"
    assert (tmp_path / "file").read_bytes() == OLD
    assert list(tmp_path.glob("staging/*")) == []


_WRITES_AND_WAITS = """
import pathlib, sys, threading
from ci_modelcache.transfer.land import replacing

with replacing(pathlib.Path(sys.argv[1])) as file:
    file.write(b"half of it")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
    file.write(b", and the rest")
print("done", flush=True)
"""


@contextmanager
def writer(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in the middle of writing *target*, and goes on when it is sent a line."""
    command = [sys.executable, "-c", _WRITES_AND_WAITS, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_writer_leaves_only_what_the_next_run_sweeps(target: Path) -> None:
    with writer(target) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(HANG)
    left = names(target.parent)
    assert len(left) == 2
    assert target.read_bytes() == OLD
    assert sweep(target.parent) == 1
    assert names(target.parent) == ["model.bin"]
    assert sweep(target.parent) == 0


def test_sweeping_spares_a_writer_that_lives(target: Path) -> None:
    with writer(target) as process:
        assert sweep(target.parent) == 0
        out, _ = process.communicate("go on\n", timeout=HANG)
    assert out == "done\n"
    assert target.read_bytes() == b"half of it, and the rest"
    assert names(target.parent) == ["model.bin"]


def test_sweeping_spares_a_writer_of_another_thread(target: Path) -> None:
    with replacing(target) as file:
        assert sweep(target.parent) == 0
        file.write(NEW)
    assert target.read_bytes() == NEW


def test_a_sweep_between_making_and_locking_costs_the_writer_nothing(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window between mkstemp and flock: the sweeper takes the file, and the writer makes another."""
    real = fcntl.flock
    swept: list[int] = []

    def flock(file: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.append(0)
            swept[0] = sweep(target.parent)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    land([NEW], target, expected(NEW))
    assert swept == [1]
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["model.bin"]


def test_writers_and_sweepers_at_once_lose_nothing(tmp_path: Path) -> None:
    stop, failures = threading.Event(), []

    def sweeping() -> None:
        while not stop.is_set():
            sweep(tmp_path)

    def writing(number: int) -> None:
        data = b"%d" % number * 100
        try:
            for _ in range(40):
                land([data], tmp_path / str(number), expected(data))
        except (OSError, ModelCacheError) as error:
            failures.append(error)

    sweepers = [threading.Thread(target=sweeping) for _ in range(2)]
    writers = [threading.Thread(target=writing, args=(number,)) for number in range(4)]
    for thread in sweepers + writers:
        thread.start()
    for thread in writers:
        thread.join(HANG)
    stop.set()
    for thread in sweepers:
        thread.join(HANG)
    assert failures == []
    assert names(tmp_path) == ["0", "1", "2", "3"]


def test_sweeping_touches_nothing_but_leftovers(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    folder = tmp_path / "staging"
    folder.mkdir()
    (folder / f"{PREFIX}link").symlink_to(outside)
    (folder / f"{PREFIX}dangling").symlink_to(tmp_path / "nowhere")
    (folder / f"{PREFIX}folder").mkdir()
    os.mkfifo(folder / f"{PREFIX}fifo")
    (folder / "landing-not").touch()
    (folder / f"{PREFIX}old").touch()
    before = set(names(folder))
    assert sweep(folder) == 1
    assert before - set(names(folder)) == {f"{PREFIX}old"}
    assert outside.read_bytes() == OLD


def test_sweeping_a_folder_that_is_not_there_finds_nothing(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere") == 0


def test_a_leftover_of_another_user_stops_nobody(tmp_path: Path) -> None:
    theirs, mine = tmp_path / f"{PREFIX}a", tmp_path / f"{PREFIX}b"
    theirs.touch()
    mine.touch()
    with unprivileged(theirs, mode=0o000):
        assert sweep(tmp_path) == 1
    assert names(tmp_path) == [theirs.name]


def test_a_read_only_leftover_is_swept(tmp_path: Path) -> None:
    leftover = tmp_path / f"{PREFIX}a"
    leftover.touch()
    leftover.chmod(0o444)
    with unprivileged():
        assert sweep(tmp_path) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_on_a_disk_without_locks_files_are_written_and_nothing_is_swept(
    code: int, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_file: int, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with replacing(target) as file:
        assert sweep(target.parent) == 0
        file.write(NEW)
    assert target.read_bytes() == NEW


def test_another_failure_to_lock_is_a_failure(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: int, _operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(Unavailable, match=r"cannot write .*model\.bin: Input/output error") as caught:
        land([NEW], target, expected(NEW))
    assert "check the disk" in str(caught.value.hint)
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.bin"]


def test_what_a_thread_left_behind_is_writing_goes_when_the_process_ends(target: Path) -> None:
    writing, go_on = threading.Event(), threading.Event()
    failures: list[OSError] = []

    def write() -> None:
        try:
            with replacing(target) as file:
                file.write(NEW)
                writing.set()
                go_on.wait(HANG)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert writing.wait(HANG)
    abandon()
    assert names(target.parent) == ["model.bin"]
    go_on.set()
    thread.join(HANG)
    assert [type(failure) for failure in failures] == [FileNotFoundError]
    assert target.read_bytes() == OLD
