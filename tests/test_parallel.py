"""Work is done in order by a bounded number of threads; the first failure, the deadline and Ctrl-C end it in time."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import AccessDenied, DeadlineExceeded, Unavailable
from ci_modelcache.transfer import parallel
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.parallel import Crew, bounded, for_each, in_order
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

HANG = 20.0
"""Seconds after which a test says that something hangs; nothing here takes one of them."""


def run(
    items: Iterable[int], work: Callable[[int], object], *, workers: int = 2, deadline: Deadline | None = None
) -> None:
    for_each(items, work, workers=workers, deadline=deadline or Deadline(HANG), doing="working")


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the end, so that no thread outlives its test for long."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("workers", [1, 2, 50])
def test_every_item_is_worked_on_once(workers: int) -> None:
    done: list[int] = []
    run(range(20), done.append, workers=workers)
    assert sorted(done) == list(range(20))


def test_one_worker_keeps_the_order() -> None:
    done: list[int] = []
    run((n for n in (5, 3, 9, 1)), done.append, workers=1)
    assert done == [5, 3, 9, 1]


def test_items_are_begun_in_their_order() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> None:
        with lock:
            begun.append(item)
        time.sleep(0.001 * (item % 3))

    run(range(30), work, workers=3)
    assert all(abs(place - item) < 3 for place, item in enumerate(begun))


def test_no_more_than_the_workers_run_at_a_time() -> None:
    together = threading.Barrier(3, timeout=HANG)
    running, most = [0], [0]
    lock = threading.Lock()

    def work(_item: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait()
        with lock:
            running[0] -= 1

    run(range(9), work, workers=3)
    assert most == [3]


def test_nothing_to_do_starts_nobody_and_minds_no_deadline() -> None:
    run([], print, deadline=Deadline(0, clock=Clock()))


@pytest.mark.parametrize("workers", [0, -1])
def test_nobody_to_work_is_a_mistake_of_the_caller_and_no_hang(workers: int) -> None:
    with pytest.raises(ValueError, match="workers: expected 1 or more"):
        run([1], print, workers=workers)


def test_the_first_failure_is_raised_as_it_is() -> None:
    failure = AccessDenied("no")

    def work(item: int) -> None:
        if item == 3:
            raise failure

    with pytest.raises(AccessDenied) as caught:
        run(range(10), work)
    assert caught.value is failure


def test_after_a_failure_nothing_new_is_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        msg = f"failure {item}"
        raise Unavailable(msg)

    for _ in range(50):
        begun.clear()
        with pytest.raises(Unavailable, match="failure 0"):
            run(range(100), work, workers=1)
        assert begun == [0]


def test_the_first_of_two_failures_wins() -> None:
    first_failed = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            assert first_failed.wait(HANG)
            msg = "second"
            raise AccessDenied(msg)
        try:
            msg = "first"
            raise Unavailable(msg)
        finally:
            threading.Timer(0.05, first_failed.set).start()

    with pytest.raises(Unavailable, match="first"):
        run(range(2), work)


def test_what_runs_when_another_fails_gets_time_to_end() -> None:
    ended = threading.Event()
    failing = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            assert failing.wait(HANG)
            time.sleep(0.05)
            ended.set()
        else:
            failing.set()
            msg = "no"
            raise Unavailable(msg)

    with pytest.raises(Unavailable):
        run(range(2), work)
    assert ended.is_set()


def test_a_worker_that_hangs_after_a_failure_is_left_behind(
    released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_GRACE", 0.1)

    def work(item: int) -> None:
        if item == 0:
            released.wait()
        msg = "no"
        raise Unavailable(msg)

    begun = time.monotonic()
    with pytest.raises(Unavailable):
        run(range(2), work)
    assert time.monotonic() - begun < HANG


def test_the_deadline_ends_the_wait_for_workers_that_hang_for_ever(released: threading.Event) -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"^the deadline of 0.2s passed while working$"):
        run(range(4), lambda _: released.wait(), deadline=Deadline(0.2))
    assert time.monotonic() - begun < HANG


def test_nothing_is_begun_after_the_deadline() -> None:
    begun: list[int] = []
    with pytest.raises(DeadlineExceeded):
        run(range(4), begun.append, deadline=Deadline(0, clock=Clock()))
    assert begun == []


def test_a_deadline_of_a_thousand_years_is_a_deadline() -> None:
    done: list[int] = []
    run(range(3), done.append, deadline=Deadline(1000 * 365 * 86400))
    run(range(3), done.append, deadline=Deadline())
    assert len(done) == 6


def test_a_failure_of_the_items_themselves_is_raised_before_anything_is_begun() -> None:
    def items() -> Iterator[int]:
        yield 1
        msg = "the list is broken"
        raise Unavailable(msg)

    begun: list[int] = []
    with pytest.raises(Unavailable, match="the list is broken"):
        run(items(), begun.append)
    assert begun == []


def test_a_worker_that_is_told_to_exit_does_not_hang_the_rest() -> None:
    with pytest.raises(SystemExit):
        run(range(3), lambda _: sys.exit(3))


_WAITS_FOR_CTRL_C = """
import threading
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.parallel import Crew, bounded, for_each, in_order

def work(item):
    if item == 1:
        print("begun", flush=True)
    threading.Event().wait()

try:
    for_each(range(5), work, workers=2, deadline=Deadline(SECONDS), doing="working")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("seconds", ["None", "1000"], ids=["without-deadline", "with-deadline"])
def test_ctrl_c_ends_the_wait_for_workers_that_hang_for_ever(seconds: str) -> None:
    script = _WAITS_FOR_CTRL_C.replace("SECONDS", seconds)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=HANG)
        finally:
            process.kill()
    assert out == "interrupted\n"
    assert process.returncode == 0


def test_what_is_bounded_is_left_behind_when_the_deadline_passes() -> None:
    hanging = threading.Event()
    with pytest.raises(DeadlineExceeded, match="asking a Hub that trickles"):
        bounded(lambda: hanging.wait(60), deadline=Deadline(0.05), doing="asking a Hub that trickles")
    hanging.set()


def test_what_is_bounded_returns_its_result_and_raises_its_failure() -> None:
    assert bounded(lambda: 7, deadline=Deadline(30), doing="x") == 7
    assert bounded(threading.current_thread, deadline=Deadline(), doing="x") is threading.main_thread()
    with pytest.raises(Unavailable, match="down"):
        bounded(_fail, deadline=Deadline(30), doing="x")


def _fail() -> None:
    raise Unavailable("down")


# --- in order


def ordered(
    items: Iterable[int], work: Callable[[int], object], *, workers: int = 3, seconds: float = HANG
) -> Generator[object, None, None]:
    return in_order(items, work, workers=workers, deadline=Deadline(seconds), doing="working")


@pytest.mark.parametrize("workers", [1, 3, 50])
def test_results_come_in_the_order_of_the_items_whichever_is_ready_first(workers: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.001 * (7 * item % 5))
        return item * item

    assert list(ordered(range(30), work, workers=workers)) == [item * item for item in range(30)]


def test_no_more_than_the_workers_are_worked_on_ahead_of_what_was_yielded() -> None:
    begun: list[int] = []
    results = ordered(iter(range(10**9)), begun.append)
    for taken in range(1, 20):
        next(results)
        assert len(begun) <= taken + 3
    results.close()
    assert len(begun) <= 19 + 3


def test_the_first_failure_in_order_is_raised_after_what_came_before_it(released: threading.Event) -> None:
    def work(item: int) -> int:
        if item == 2:
            released.wait(HANG)
            raise Unavailable("of 2")
        if item == 3:
            released.set()
            raise AccessDenied("of 3")
        return item

    results = ordered(range(9), work)
    assert (next(results), next(results)) == (0, 1)
    with pytest.raises(Unavailable, match="of 2"):
        next(results)


def test_an_exception_may_be_a_result() -> None:
    (result,) = ordered([1], lambda _: ValueError("an answer"))
    assert isinstance(result, ValueError)


def test_a_result_that_does_not_come_costs_no_more_than_the_deadline(released: threading.Event) -> None:
    results = ordered([1], lambda _: released.wait(HANG), seconds=0.2)
    with pytest.raises(DeadlineExceeded):
        next(results)


def test_nothing_is_begun_after_the_end_and_no_thread_stays() -> None:
    before = set(threading.enumerate())
    results = ordered(range(1000), lambda item: item)
    next(results)
    results.close()
    assert set(threading.enumerate()) <= before
    assert list(ordered([], lambda item: item)) == []


def test_a_thread_that_the_system_refuses_is_said_to_be_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that may have few; nobody can wait for a thread that never began."""

    def refuse(_thread: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with (
        pytest.raises(RuntimeError, match="can't start"),
        Crew(lambda: None, deadline=Deadline(HANG), changed=threading.Condition()) as crew,
    ):
        crew.grow()
