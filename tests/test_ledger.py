"""Where the time of a step went, in one sentence: every second once, the largest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import DeadlineExceeded, RateLimited
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.events import Attempt, Decision, FileDone, TokenAsked, Waited
from ci_modelcache.transfer.ledger import Ledger
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from ci_modelcache.transfer.events import Event

A, B, C = "https://hf-mirror.example", "https://hub.internal", "https://huggingface.co"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return Ledger(clock=clock)


def wait(ledger: Ledger, clock: Clock, source: str, seconds: float, reason: str = "rate-limited") -> None:
    ledger.record(Waited(source, seconds, reason))
    clock.sleep(seconds)


def attempt(ledger: Ledger, clock: Clock, source: str, seconds: float, *, cause: str = "ok", received: int = 0) -> None:
    clock.sleep(seconds)
    ledger.record(Attempt(source, "model.bin", received=received, seconds=seconds, cause=cause))


def test_nothing_that_happened_is_nothing_to_say(ledger: Ledger) -> None:
    ledger.record(Decision(A, "it is the fastest"))
    assert ledger.sentence() == ""


def test_waits_failures_and_bytes_are_one_sentence(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, clock, A, 41)
    for _ in range(5):
        attempt(ledger, clock, B, 2.4, cause="unavailable")
    attempt(ledger, clock, A, 30, received=400_000_000)
    attempt(ledger, clock, A, 3, received=12_000_000, cause="broken-off")
    assert ledger.sentence() == (
        f"waited 41 s for {A} (rate-limited), 12 s in 5 tries of {B} (unavailable), 3 s in 1 try of {A} (broken-off); "
        f"received 412.0 MB from {A} in 33 s"
    )


def test_seconds_in_which_several_threads_wait_count_once(ledger: Ledger, clock: Clock) -> None:
    for _ in range(8):
        ledger.record(Waited(A, 37, "rate-limited"))
        clock.sleep(0.5)
    clock.sleep(60)
    assert ledger.sentence() == f"waited 40 s for {A} (rate-limited); received nothing"


def test_attempts_side_by_side_count_once_whatever_order_they_end_in(ledger: Ledger, clock: Clock) -> None:
    attempt(ledger, clock, A, 10, cause="stalled")
    attempt(ledger, clock, A, 30, cause="stalled")
    ledger.record(Attempt(A, "x", seconds=40, cause="stalled"))
    ledger.record(Attempt(A, "x", seconds=5, cause="stalled"))
    assert ledger.sentence() == f"40 s in 4 tries of {A} (stalled); received nothing"


def test_a_wait_that_is_not_over_counts_until_now(ledger: Ledger, clock: Clock) -> None:
    ledger.record(Waited(A, 300, "rate-limited"))
    clock.sleep(10)
    assert ledger.sentence() == f"waited 10 s for {A} (rate-limited); received nothing"


def test_the_largest_come_first_and_the_small_ones_are_not_told(ledger: Ledger, clock: Clock) -> None:
    for source, seconds in (("a", 1), ("b", 4), ("c", 3), ("d", 2), ("e", 0.1)):
        wait(ledger, clock, source, seconds)
    assert ledger.sentence() == (
        "waited 4 s for b (rate-limited), 3 s for c (rate-limited), 2 s for d (rate-limited); received nothing"
    )


def test_many_failures_in_no_time_are_told_all_the_same(ledger: Ledger, clock: Clock) -> None:
    for _ in range(7):
        attempt(ledger, clock, A, 0.01, cause="unavailable")
    assert ledger.sentence() == f"less than 1 s in 7 tries of {A} (unavailable); received nothing"


def test_bytes_are_told_by_source_those_of_a_store_among_them(ledger: Ledger, clock: Clock) -> None:
    attempt(ledger, clock, A, 2, received=3_000_000)
    attempt(ledger, clock, B, 2, received=2_000_000)
    ledger.record(FileDone("acme/tiny", "x", 6_000_000, 4, {A: 3_000_000, "s3://bucket": 1_000_000}))
    assert ledger.sentence() == f"received 6.0 MB in 4 s (3.0 MB from {A}, 2.0 MB from {B}, 1.0 MB from s3://bucket)"


def test_waiting_for_a_token_is_waiting(ledger: Ledger, clock: Clock) -> None:
    clock.sleep(9)
    ledger.record(TokenAsked("hub.internal", "oidc:github", seconds=9))
    ledger.record(TokenAsked("hub.internal", "oidc:github", cause="cached"))
    assert ledger.sentence() == "waited 9 s for hub.internal (token); received nothing"


def test_every_event_is_passed_on(clock: Clock) -> None:
    class Kept:
        def __init__(self) -> None:
            self.events: list[Event] = []

        def record(self, event: Event, /) -> None:
            self.events.append(event)

    kept = Kept()
    told: list[Event] = [Waited(A, 1, "stalled"), Decision(A, "chosen"), Attempt(A, "x")]
    for event in told:
        Ledger(kept, clock=clock).record(event)
    assert kept.events == told


def test_a_step_that_ends_at_its_deadline_says_what_it_waited_for(clock: Clock, ledger: Ledger) -> None:
    def asked() -> None:
        msg = f"{C} answered 429"
        raise RateLimited(msg, retry_after=20)

    deadline = Deadline(50, clock=clock, account=ledger.sentence)
    retry = RetryPolicy(deadline=deadline, sleep=clock.sleep, jitter=lambda low, _: low, events=ledger, source=C)
    with pytest.raises(DeadlineExceeded) as caught:
        retry.call(asked, doing="asking the Hub")
    assert str(caught.value) == (
        "the deadline of 50s leaves 10s, and asking the Hub would be tried again in 20s; "
        f"last failure: {C} answered 429; where the time went: waited 40 s for {C} (rate-limited); received nothing"
    )
