"""The requests that a host grants are one budget for all threads and processes, and no file, clock or death breaks it."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import RateLimited
from ci_modelcache.transfer.budget import Budget, Grant, Quota, Ticket, Unmetered
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

API = Quota("https://huggingface.co", "api", "reader")
FILES = Quota("https://huggingface.co", "resolvers", "reader")
NOT_SHARED = "how many requests are left is not shared with other processes"


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
    return clock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budget"


def budget(folder: Path | None, clock: Clock, *, share: float = 0.0) -> Budget:
    return Budget(folder, clock=clock, jitter=lambda low, high: low + share * (high - low), sleep=clock.sleep)


def left(remaining: int, reset: float = 243, *, limit: int | None = None, window: float | None = None) -> Grant:
    return Grant(200, remaining=remaining, reset=reset, limit=limit, window=window)


def refused(budget: Budget, quota: Quota = API) -> tuple[float | None, str]:
    with pytest.raises(RateLimited) as caught:
        budget.take(quota)
    return caught.value.retry_after, str(caught.value)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# What is granted


def test_a_host_that_says_nothing_is_not_counted_and_leaves_no_file(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    for _ in range(3):
        kept.note(kept.take(API), Grant(200))
    kept.note(kept.take(API), Grant(503))
    assert not folder.exists()


def test_who_was_asked_to_wait_sends_nothing_until_then(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), Grant(429, wait=37))
    assert refused(kept) == (
        37,
        "https://huggingface.co asked this machine to wait 37 s (429 at 08:00:00 UTC)",
    )
    clock.sleep(36.5)
    assert refused(kept)[0] == 0.5
    clock.sleep(0.5)
    kept.take(API)


def test_a_process_that_was_not_asked_itself_waits_as_well(folder: Path, clock: Clock) -> None:
    one, other = budget(folder, clock), budget(folder, clock)
    one.note(one.take(API), Grant(503, wait=20))
    assert "wait 20 s (503 at" in refused(other)[1]


def test_the_longest_wait_counts(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    first, second = kept.take(API), kept.take(API)
    kept.note(first, Grant(429, wait=60))
    kept.note(second, Grant(429, wait=5))
    assert refused(kept)[0] == 60


@pytest.mark.parametrize(
    "other",
    [FILES, Quota("https://hub.internal", "api", "reader"), Quota("https://huggingface.co", "api")],
    ids=["files", "another host", "another account"],
)
def test_what_is_counted_apart_waits_apart(folder: Path, clock: Clock, other: Quota) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), Grant(429, wait=60))
    kept.take(other)
    refused(kept)


def test_requests_are_counted_down_between_answers(folder: Path, clock: Clock) -> None:
    """Those in flight, of any process, are taken off what the last answer left."""
    one, other = budget(folder, clock), budget(folder, clock)
    one.note(one.take(API), left(3, 243, limit=500, window=300))
    one.take(API)
    other.take(API)
    one.take(API)
    assert refused(other) == (
        243,
        "https://huggingface.co grants this machine no more requests for 243 s (500 in 300 s)",
    )
    clock.sleep(243)
    other.take(API)


def test_an_answer_that_grants_more_is_believed_at_once(folder: Path, clock: Clock) -> None:
    """Requests that the host does not count do not use up ours."""
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(3))
    for _ in range(50):
        kept.note(kept.take(API), left(3))


def test_an_answer_does_not_forget_the_requests_sent_after_its_own(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(10))
    early = kept.take(API)
    for _ in range(5):
        kept.take(API)
    kept.note(early, left(9))
    for _ in range(4):
        kept.take(API)
    refused(kept)


def test_an_answer_after_which_nothing_is_left_ends_it(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(0, 55))
    assert refused(kept)[0] == 55


def test_those_who_wait_are_not_sent_back_at_one_moment_nor_too_early(folder: Path, clock: Clock) -> None:
    waits = []
    for share in (0.0, 0.25, 1.0):
        kept = budget(folder, clock, share=share)
        kept.note(Ticket(API), Grant(429, wait=37))
        waits.append(refused(kept)[0])
    assert waits == [37, 37.25, 38]
    budget(folder, clock).note(Ticket(FILES), Grant(429, wait=2))
    assert refused(budget(folder, clock, share=1.0), FILES)[0] == 2.2


def test_nobody_counts_when_nobody_is_to() -> None:
    unmetered = Unmetered()
    unmetered.note(unmetered.take(API), Grant(429, wait=60))
    unmetered.take(API)


# Clocks


def test_nothing_is_believed_for_longer_than_an_hour(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), Grant(429, wait=10**9))
    assert refused(kept)[0] == 3600
    kept.note(Ticket(FILES), left(0, 10**9))
    assert refused(kept, FILES)[0] == 3600


def test_a_clock_that_is_set_back_does_not_make_a_wait_longer(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), Grant(429, wait=37))
    clock.now -= 365 * 86400
    assert refused(kept)[0] == 37
    clock.sleep(30)
    assert refused(budget(folder, clock))[0] == 7
    clock.sleep(7)
    kept.take(API)


def test_a_clock_that_is_set_forward_ends_the_wait(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), Grant(429, wait=37))
    clock.now += 365 * 86400
    kept.take(API)


# Files


BAD = {
    "empty": b"",
    "text": b"hello",
    "cut": b'{"version": 1, "origin": "https://hugg',
    "binary": bytes(range(256)) * 8,
    "list": b"[1, 2]",
    "number": b"7",
    "deep": b"[" * 100_000,
    "lacks": b'{"version": 1}',
    "more": b'{"version": 1, "origin": "", "bucket": "", "at": 0, "colour": 1}',
    "text for a number": b'{"version": 1, "origin": "", "bucket": "", "at": "now"}',
    "not a number": b'{"version": 1, "origin": "", "bucket": "", "at": 0, "until": NaN}',
    "too much for any number": b'{"version": 1, "origin": "", "bucket": "", "at": 0, "sent": 1%s}' % (b"0" * 400),
    "a year that no calendar has": b'{"version": 1, "origin": "", "bucket": "", "at": 0, "until": 1e18, "asked": 1e18}',
    "for ever": b'{"version": 1, "origin": "", "bucket": "", "at": 0, "until": Infinity}',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_file_that_makes_no_sense_is_replaced_and_shared_again(
    folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(5))
    [path] = files(folder)
    path.write_bytes(content)
    for _ in range(3):
        kept.take(API)
    assert len(caplog.messages) == (1 if content else 0)
    kept.note(kept.take(API), Grant(429, wait=9))
    assert refused(budget(folder, clock))[0] == 9
    assert len(caplog.messages) == (1 if content else 0)


def test_a_wait_of_a_thousand_years_in_a_file_is_an_hour_at_most(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), Grant(429, wait=9))
    [path] = files(folder)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "until": 1e12}))
    assert refused(kept)[0] == 3600


def test_the_file_of_another_version_is_left_alone(
    folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(5))
    [path] = files(folder)
    path.write_text('{"version": 2, "wisdom": []}')
    kept.note(kept.take(API), Grant(429, wait=9))
    assert refused(kept)[0] == 9
    assert path.read_text() == '{"version": 2, "wisdom": []}'
    assert [message.partition(":")[0] for message in caplog.messages] == [NOT_SHARED]


def blocked(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")


def occupied(folder: Path) -> None:
    folder.mkdir(parents=True)
    for quota in (API, FILES):
        note = budget(folder, Clock())
        note.note(Ticket(quota), left(5))
    for path in files(folder):
        path.unlink()
        path.mkdir()


def fifos(folder: Path) -> None:
    occupied(folder)
    for path in files(folder):
        path.rmdir()
        os.mkfifo(path)


def links(folder: Path) -> None:
    occupied(folder)
    for path in files(folder):
        path.rmdir()
        path.symlink_to("/dev/null")


@pytest.mark.parametrize("spoil", [blocked, occupied, fifos, links])
def test_without_usable_files_a_process_keeps_its_own_count_and_says_so_once(
    folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    spoil(folder)
    kept = budget(folder, clock)
    for quota in (API, FILES):
        kept.note(kept.take(quota), Grant(429, wait=9))
        assert refused(kept, quota)[0] == 9
    assert [message.partition(":")[0] for message in caplog.messages] == [NOT_SHARED]


def test_without_a_folder_a_process_keeps_its_own_count_in_silence(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = budget(None, clock)
    kept.note(kept.take(API), left(1))
    kept.take(API)
    assert refused(kept)[0] == 243
    assert caplog.messages == []


def test_files_that_nobody_wrote_to_for_a_day_are_swept(folder: Path, clock: Clock) -> None:
    """A token that changes with every job leaves one file a day, not one for ever."""
    kept = budget(folder, clock)
    kept.note(Ticket(API), left(5))
    [old] = files(folder)
    os.utime(old, (clock.now - 86401, clock.now - 86401))
    kept.note(Ticket(FILES), left(5))
    [young] = files(folder)
    assert young != old
    os.utime(young, (clock.now - 86399, clock.now - 86399))
    kept.note(Ticket(Quota("https://a", "api")), left(5))
    assert len(files(folder)) == 2
    assert young in files(folder)


def test_a_file_tells_people_what_it_is_and_no_identity(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(489, 243, limit=500, window=300))
    [path] = files(folder)
    text = path.read_text()
    assert "reader" not in text + path.name
    assert json.loads(text)["origin"] == "https://huggingface.co"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(text) == 512


# Threads and processes


def test_threads_take_no_more_than_is_granted(folder: Path, clock: Clock) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(100))
    taken: list[Ticket] = []

    def take() -> None:
        for _ in range(50):
            try:
                taken.append(kept.take(API))
            except RateLimited:
                return

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 100
    assert len({ticket.number for ticket in taken}) == 100


TAKE = """
    import sys
    from pathlib import Path
    from ci_modelcache.errors import RateLimited
    from ci_modelcache.transfer.budget import Budget, Quota
    budget, taken = Budget(Path(sys.argv[1])), 0
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        while True:
            budget.take(Quota("https://huggingface.co", "api", "reader"))
            taken += 1
    except RateLimited:
        print(taken)
"""
HOLD = """
    import fcntl, sys, time
    with open(sys.argv[1], "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(3)
        file.write(b"torn")
        file.flush()
        print("held", flush=True)
        time.sleep(60)
"""


def run(program: str, argument: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), str(argument)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_four_processes_take_no_more_than_is_granted(folder: Path) -> None:
    kept = Budget(folder)
    kept.note(kept.take(API), left(2000, 600))
    processes = [run(TAKE, folder) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sum(int(process.communicate(timeout=60)[0]) for process in processes) == 2000


def test_a_process_that_is_killed_with_the_lock_in_its_hand_stops_nobody(
    folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(5))
    holder = run(HOLD, files(folder)[0])
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
    kept.note(kept.take(API), Grant(429, wait=9))
    assert refused(budget(folder, clock))[0] == 9
    assert len(caplog.messages) == 1
    assert "makes no sense, and begins anew" in caplog.messages[0]
    assert clock.slept == []


def test_a_process_that_is_stopped_with_the_lock_in_its_hand_is_waited_for_a_second_at_most(
    folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = budget(folder, clock)
    kept.note(kept.take(API), left(5))
    holder = run(HOLD, files(folder)[0])
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        kept.note(kept.take(API), Grant(429, wait=9))
        assert refused(kept)[0] == 9
    finally:
        holder.kill()
        holder.communicate()
    assert math.isclose(sum(clock.slept), 1.0)
    assert "is locked by a process that does not go on" in caplog.text
    assert logging.WARNING in {record.levelno for record in caplog.records}
