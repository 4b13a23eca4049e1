"""Only what may pass is tried again: so often, so patiently, never past the deadline, and never for years."""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import (
    AccessDenied,
    BrokenOff,
    DeadlineExceeded,
    IntegrityError,
    NotFound,
    RateLimited,
    Stalled,
    Unavailable,
)
from ci_modelcache.sources.health import cause_of
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.events import Waited
from ci_modelcache.transfer.retry import LONGEST_PAUSE, RetryPolicy, _reason
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.transfer.events import Event


def longest(_low: float, high: float) -> float:
    return high


def policy(
    clock: Clock, *, seconds: float | None = None, jitter: Callable[[float, float], float] = longest
) -> RetryPolicy:
    deadline = Deadline(seconds, clock=clock)
    return RetryPolicy(attempts=6, base=0.5, cap=20.0, deadline=deadline, sleep=clock.sleep, jitter=jitter)


class Failing:
    """An operation that raises *failures* one after the other, and then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def test_what_succeeds_is_called_once_and_nobody_sleeps() -> None:
    clock, operation = Clock(), Failing()
    assert policy(clock).call(operation, doing="asking") == "done"
    assert (operation.calls, clock.slept) == (1, [])


def test_pauses_double_from_base_to_cap() -> None:
    clock, operation = Clock(), Failing(*[Unavailable("reset")] * 9)
    retry = RetryPolicy(attempts=10, base=0.5, cap=20.0, sleep=clock.sleep, jitter=longest)
    assert retry.call(operation, doing="asking") == "done"
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 20, 20, 20]


def test_the_jitter_is_full() -> None:
    windows: list[tuple[float, float]] = []

    def jitter(low: float, high: float) -> float:
        windows.append((low, high))
        return high / 4

    clock = Clock()
    policy(clock, jitter=jitter).call(Failing(Unavailable("a"), Unavailable("b")), doing="asking")
    assert windows == [(0, 0.5), (0, 1)]
    assert clock.slept == [0.125, 0.25]


def test_the_jitter_is_random_when_nobody_says_otherwise() -> None:
    assert RetryPolicy().jitter == random.uniform


def test_it_gives_up_with_the_last_failure_after_so_many_attempts() -> None:
    failures = [Unavailable(f"reset {n}") for n in range(9)]
    clock, operation = Clock(), Failing(*failures)
    with pytest.raises(Unavailable, match="reset 5") as caught:
        policy(clock).call(operation, doing="asking the Hub")
    assert caught.value is failures[5]
    assert operation.calls == 6
    assert len(clock.slept) == 5
    assert caught.value.__notes__ == ["gave up asking the Hub after 6 attempts"]


@pytest.mark.parametrize(
    "error", [AccessDenied("no"), NotFound("no"), IntegrityError("no"), ValueError("no"), OSError("no")]
)
def test_nothing_but_the_unavailable_is_tried_again(error: Exception) -> None:
    clock, operation = Clock(), Failing(error)
    with pytest.raises(type(error)):
        policy(clock).call(operation, doing="asking")
    assert (operation.calls, clock.slept) == (1, [])


def test_a_pause_that_was_asked_for_is_kept_even_above_the_cap() -> None:
    clock = Clock()
    policy(clock).call(Failing(RateLimited("429", retry_after=300)), doing="asking")
    assert clock.slept == [301]


def told(asked: float, *, seconds: float | None = None, share: float = 1.0) -> list[float]:
    """The one pause that was made after being asked to wait for so long."""
    clock = Clock()
    retry = policy(clock, seconds=seconds, jitter=lambda low, high: low + share * (high - low))
    retry.call(Failing(RateLimited("429", retry_after=asked)), doing="asking")
    return clock.slept


def test_those_who_were_asked_to_wait_do_not_come_back_all_at_once_and_never_earlier() -> None:
    assert told(37, share=0.0) == [37]
    assert told(37, share=0.5) == [37.5]
    assert told(37, share=1.0) == [38]
    assert told(5, share=1.0) == [5.5]


def test_what_is_added_to_a_pause_never_makes_it_too_long() -> None:
    assert told(LONGEST_PAUSE) == [LONGEST_PAUSE]
    assert told(29.9, seconds=30) == [pytest.approx(29.95)]


class Told:
    """Events that are kept; *clock* tells when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.events: list[tuple[float, Event]] = []

    def record(self, event: Event, /) -> None:
        self.events.append((self.clock.now, event))


def test_every_pause_is_told_before_it_begins_with_its_reason() -> None:
    clock = Clock()
    told = Told(clock)
    retry = evolve(policy(clock), events=told, source="https://a")
    retry.call(Failing(Unavailable("reset"), RateLimited("429", retry_after=10), Stalled("slow")), doing="asking")
    assert told.events == [
        (1000.0, Waited("https://a", 0.5, "unavailable")),
        (1000.5, Waited("https://a", 11.0, "rate-limited")),
        (1011.5, Waited("https://a", 2.0, "stalled")),
    ]


def test_a_pause_that_is_not_made_is_not_told() -> None:
    clock = Clock()
    told = Told(clock)
    with pytest.raises(DeadlineExceeded):
        evolve(policy(clock, seconds=5), events=told).call(Failing(RateLimited("429", retry_after=10)), doing="asking")
    assert told.events == []


def test_a_pause_for_one_of_several_sources_is_told_as_one_for_it() -> None:
    clock = Clock()
    told = Told(clock)
    retry = evolve(policy(clock), events=told, source="all")
    retry.wait(3.0, Unavailable("down"), doing="asking", told="1 of 2", source="https://b")
    assert [event for _, event in told.events] == [Waited("https://b", 3.0, "unavailable")]


def test_the_words_for_pauses_are_those_of_the_causes_of_failures() -> None:
    errors = (Unavailable("a"), RateLimited("a"), Stalled("a"), BrokenOff("a"))
    assert [_reason(error) for error in errors] == [cause_of(error) for error in errors]


def test_a_pause_that_was_asked_for_never_shortens_ours() -> None:
    clock = Clock()
    policy(clock).call(Failing(RateLimited("429", retry_after=0.1)), doing="asking")
    assert clock.slept == [0.5]


@pytest.mark.parametrize("asked", [None, -5.0, 0.0, math.nan, -math.inf])
def test_a_pause_that_makes_no_sense_is_as_if_none_was_asked_for(asked: float | None) -> None:
    clock = Clock()
    policy(clock).call(Failing(RateLimited("429", retry_after=asked)), doing="asking")
    assert clock.slept == [0.5]


@pytest.mark.parametrize("asked", [LONGEST_PAUSE + 1, 1e12, math.inf])
def test_a_pause_that_would_be_a_hang_is_a_failure_at_once(asked: float) -> None:
    clock, operation = Clock(), Failing(RateLimited("429 from the Hub", retry_after=asked))
    with pytest.raises(RateLimited, match="429 from the Hub") as caught:
        policy(clock).call(operation, doing="asking")
    assert (operation.calls, clock.slept) == (1, [])
    assert caught.value.__notes__[0].startswith("gave up asking: asked to wait ")


@pytest.mark.parametrize("asked", [60.0, 1e12, math.inf])
def test_a_pause_beyond_the_deadline_ends_the_step_at_once_with_the_reason(asked: float) -> None:
    clock, operation = Clock(), Failing(RateLimited("429 from the Hub", retry_after=asked))
    with pytest.raises(DeadlineExceeded) as caught:
        policy(clock, seconds=30).call(operation, doing="asking the Hub")
    assert (operation.calls, clock.slept) == (1, [])
    assert isinstance(caught.value.__cause__, RateLimited)


def test_the_message_of_a_pause_beyond_the_deadline_says_all_that_matters() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        policy(Clock(), seconds=30).call(Failing(RateLimited("429", retry_after=300)), doing="asking the Hub")
    assert str(caught.value) == (
        "the deadline of 30s leaves 30s, and asking the Hub would be tried again in 5m; last failure: 429"
    )


def test_no_attempt_is_begun_after_the_deadline() -> None:
    clock, operation = Clock(), Failing()
    retry = policy(clock, seconds=10)
    clock.sleep(11)
    with pytest.raises(DeadlineExceeded, match="passed while asking"):
        retry.call(operation, doing="asking")
    assert operation.calls == 0


def test_retries_are_told_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        policy(Clock()).call(Failing(Unavailable("connection reset")), doing="asking")
    assert caplog.messages == ["connection reset; trying again in 0.5 s (1 of 6)"]


@given(
    st.lists(st.floats() | st.none(), max_size=8), st.integers(0, 1000) | st.none(), st.randoms(use_true_random=False)
)
def test_whatever_is_asked_for_every_pause_is_bounded_and_fits(
    asked: list[float | None], seconds: int | None, random: random.Random
) -> None:
    clock = Clock()
    operation = Failing(*(RateLimited("429", retry_after=each) for each in asked))
    retry = policy(clock, seconds=seconds, jitter=random.uniform)
    end = math.inf if seconds is None else clock.now + seconds
    try:
        retry.call(operation, doing="asking")
    except (RateLimited, DeadlineExceeded):
        assert asked or seconds == 0  # success is right, too
    assert all(0 <= pause <= LONGEST_PAUSE for pause in clock.slept)
    assert clock.now <= end
    assert operation.calls <= 6


def test_waiting_for_somebody_else_is_told_and_ends_with_the_deadline() -> None:
    clock, told = Clock(), list[object]()

    class Noting:
        def record(self, event: Event, /) -> None:
            told.append(event)

    patient = evolve(policy(clock, seconds=4), events=Noting(), source="s3://bucket")
    patient.idle(2, doing="waiting for another", told="another-job")
    assert clock.slept == [3]
    with pytest.raises(DeadlineExceeded, match="the deadline of 4s passed while waiting for another"):
        patient.idle(2, doing="waiting for another", told="another-job")
    assert clock.slept == [3, 1]
    assert told == [Waited("s3://bucket", seconds, "another-job") for seconds in (3, 1)]
