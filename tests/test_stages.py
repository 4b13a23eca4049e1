"""Preparing and finishing go on beside each other; the first failure, the deadline and Ctrl-C end both."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from ci_modelcache.errors import DeadlineExceeded, Unavailable
from ci_modelcache.transfer import stages
from ci_modelcache.transfer.beside import Beside
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.parallel import Behind, Crew
from ci_modelcache.transfer.progress import Later
from ci_modelcache.transfer.stages import Stages
from tests.parts.verbs import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HANG = 20.0
"""Seconds after which a test says that something hangs; nothing here takes one of them."""


def run(
    count: int,
    *,
    prepare: Callable[[int], int] = lambda item: item,
    gather: Callable[[Sequence[int]], object] = lambda _: None,
    finish: Callable[[int], object] = lambda _: None,
    worth: int = 1 << 30,
    workers: int = 2,
    deadline: Deadline | None = None,
) -> None:
    work = Stages(range(count), prepare=prepare, gather=gather, finish=finish, weigh=lambda item: item, worth=worth)
    work.run(workers=workers, deadline=deadline or Deadline(HANG), doing="working")


@pytest.mark.parametrize("workers", [1, 3, 50])
@pytest.mark.parametrize("worth", [1, 30, 1 << 30])
def test_every_item_is_prepared_gathered_and_finished_once_in_that_order(workers: int, worth: int) -> None:
    done: list[tuple[str, int]] = []

    def prepare(item: int) -> int:
        done.append(("prepare", item))
        return item

    run(
        20,
        prepare=prepare,
        gather=lambda batch: done.extend(("gather", item) for item in batch),
        finish=lambda item: done.append(("finish", item)),
        workers=workers,
        worth=worth,
    )
    assert sorted(done) == sorted((verb, item) for verb in ("prepare", "gather", "finish") for item in range(20))
    for item in range(20):
        places = [done.index((verb, item)) for verb in ("prepare", "gather", "finish")]
        assert places == sorted(places)


def test_what_is_not_worth_it_is_gathered_once_at_the_end() -> None:
    batches: list[int] = []
    run(20, gather=lambda batch: batches.append(len(batch)))
    assert batches == [20]


def test_items_are_finished_while_others_are_being_prepared() -> None:
    finished = threading.Event()

    def prepare(item: int) -> int:
        assert item < 2 or finished.wait(HANG)
        return item

    run(3, prepare=prepare, finish=lambda _: finished.set(), worth=1)
    assert finished.is_set()


def test_one_batch_is_gathered_at_a_time() -> None:
    gathering = threading.Lock()

    def gather(_batch: Sequence[int]) -> None:
        assert gathering.acquire(blocking=False)
        time.sleep(0.002)
        gathering.release()

    run(50, gather=gather, worth=1, workers=8)


def test_nothing_is_no_work() -> None:
    run(0, gather=lambda _: pytest.fail("gathered"))


@pytest.mark.parametrize("where", ["prepare", "gather", "finish"])
def test_the_first_failure_ends_all_and_is_raised(where: str) -> None:
    begun: list[int] = []

    def fail(_what: object) -> int:
        msg = "broken"
        raise Unavailable(msg)

    def slowly(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        return item

    work: dict[str, Callable[[object], int]] = {where: fail}
    with pytest.raises(Unavailable, match="broken"):
        run(10_000, worth=1, **{"prepare": slowly, **work})  # type: ignore[arg-type]  # one of the three
    assert len(begun) < 1000


@pytest.mark.parametrize("where", ["prepare", "finish"])
def test_the_deadline_ends_what_hangs(where: str) -> None:
    released = threading.Event()
    work: dict[str, Callable[[int], object]] = {where: lambda _: released.wait(HANG)}
    with pytest.raises(DeadlineExceeded):
        run(2, worth=1, deadline=Deadline(0.05), **work)  # type: ignore[arg-type]  # one of the two
    released.set()


def test_who_fails_just_as_the_deadline_passes_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits any more for what it has to tell."""
    told = threading.Event()

    class Slow(list[BaseException]):
        def append(self, failure: BaseException, /) -> None:
            told.wait(HANG)
            super().append(failure)

    class Slowly(Crew):
        def __enter__(self) -> Self:
            self.failures = Slow()
            return self

    def fail(_item: int) -> int:
        msg = "broken"
        raise Unavailable(msg)

    monkeypatch.setattr(stages, "Crew", Slowly)
    with pytest.raises(DeadlineExceeded):
        run(2, prepare=fail, deadline=Deadline(0.2))
    told.set()


def test_what_is_done_behind_is_done_in_order_and_one_at_a_time() -> None:
    done: list[int] = []
    behind = Behind()
    for number in range(50):
        behind.run(lambda number=number: done.append(number))  # type: ignore[misc]  # a lambda with defaults
    behind.wait()
    assert done == list(range(50))


def test_a_failure_behind_is_raised_by_the_next_call() -> None:
    behind = Behind()
    behind.run(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        behind.run(lambda: None)


def test_leaves_that_are_hashed_beside_are_those_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 300
    monkeypatch.setattr("ci_modelcache.model.digest.LEAF_SIZE", 1000)
    monkeypatch.setattr("ci_modelcache.transfer.lane._SPAN", 700)
    seen = []
    for kind in (Beside, Beside.__mro__[1]):
        hasher = kind(len(data), git=True)
        for start in range(0, len(data), 333):
            hasher.update(data[start : start + 333])
        seen.append((hasher.finish(), hasher.finish()))
    assert seen[0] == seen[1]
    assert len(seen[0][0].sums) == 77


def test_progress_beside_an_earlier_one_is_shown_when_that_has_ended() -> None:
    ledger = Ledger()
    later = Later(ledger)
    ledger.start("hashing", 10)
    later.advance(3)
    ledger.advance(10)
    later.start("sending", 10)
    later.advance(7)
    later.finish()
    assert ledger.works == [("hashing", 10, 10), ("sending", 10, 10)]
    ledger.check()
