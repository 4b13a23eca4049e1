"""Transfers keep to a rate, all together, each with its share, and never sleep past the deadline."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import DeadlineExceeded
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.throttle import Throttle
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
RATES = [1e6, 2e7, 1e9]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def endless(size: int) -> Iterator[bytes]:
    piece = bytes(size)
    while True:
        yield piece


def passed(clock: Clock, throttle: Throttle, size: int, *, seconds: float) -> int:
    """Bytes that come in so many *seconds* from a source that is infinitely fast."""
    end, count = clock.now + seconds, 0
    for piece in throttle.pace(endless(size), Deadline(clock=clock)):
        if clock.now > end:
            return count
        count += len(piece)
    pytest.fail("it is endless")


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("size", [1000, MIB, 3 * MIB + 7])
def test_two_seconds_bring_twice_the_rate(clock: Clock, rate: float, size: int) -> None:
    throttle = Throttle(rate, clock=clock, sleep=clock.sleep)
    assert passed(clock, throttle, size, seconds=2) == pytest.approx(2 * rate, rel=0.05)


def test_no_byte_is_lost_added_or_moved(clock: Clock) -> None:
    pieces = [bytes([n]) * size for n, size in enumerate([0, 1, 5000, MIB, 3, 70_000, 0, 2 * MIB + 1])]
    throttle = Throttle(1e6, clock=clock, sleep=clock.sleep)
    assert b"".join(throttle.pace(pieces, Deadline(clock=clock))) == b"".join(pieces)


def test_a_source_that_is_slower_than_the_rate_is_not_held_up(clock: Clock) -> None:
    def slow() -> Iterator[bytes]:
        for _ in range(20):
            clock.sleep(0.1)
            yield bytes(10_000)

    begun = clock.now
    assert sum(map(len, Throttle(1e6, clock=clock, sleep=clock.sleep).pace(slow(), Deadline(clock=clock)))) == 200_000
    assert clock.now - begun == pytest.approx(2, abs=0.05)


def test_a_pause_leaves_only_a_short_burst(clock: Clock) -> None:
    throttle = Throttle(1e6, clock=clock, sleep=clock.sleep)
    clock.sleep(3600)
    assert passed(clock, throttle, 1000, seconds=1) == pytest.approx(1.1e6, rel=0.03)


def test_bytes_of_many_short_streams_count_as_well(clock: Clock) -> None:
    """A snapshot of a thousand small files keeps to the rate."""
    throttle, begun = Throttle(1e6, clock=clock, sleep=clock.sleep), clock.now
    for _ in range(1000):
        assert b"".join(throttle.pace([bytes(3000)], Deadline(clock=clock))) == bytes(3000)
        clock.sleep(0.0001)
    for _ in throttle.pace([bytes(20_000)], Deadline(clock=clock)):
        assert clock.now - begun == pytest.approx(3, abs=0.15)


def test_throttles_nest_and_the_smaller_one_counts(clock: Clock) -> None:
    everything = Throttle(4e6, clock=clock, sleep=clock.sleep)
    mirror = Throttle(1e6, clock=clock, sleep=clock.sleep)
    begun, deadline = clock.now, Deadline(clock=clock)
    assert sum(map(len, mirror.pace(everything.pace([bytes(100_000)] * 20, deadline), deadline))) == 2_000_000
    assert clock.now - begun == pytest.approx(2, rel=0.05)


def test_without_a_rate_nothing_is_touched(clock: Clock) -> None:
    pieces = [bytes(5 * MIB), b""]
    assert list(Throttle(clock=clock, sleep=clock.sleep).pace(pieces, Deadline(clock=clock))) == pieces
    assert clock.slept == []


@pytest.mark.parametrize("rate", [0, -1, math.nan])
def test_a_rate_that_lets_nothing_pass_is_a_mistake(rate: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0 bytes a second"):
        Throttle(rate)


def test_it_never_sleeps_beyond_the_deadline(clock: Clock) -> None:
    throttle, begun = Throttle(1e5, clock=clock, sleep=clock.sleep), clock.now
    with pytest.raises(DeadlineExceeded, match=r"the deadline of 2s passed while keeping to 100\.0 kB a second"):
        for _ in throttle.pace(endless(MIB), Deadline(2, clock=clock)):
            pass
    assert clock.now - begun == pytest.approx(2)


@pytest.mark.parametrize(("rate", "sizes"), [(2e6, (200, 5000, 100_000, MIB)), (5e7, (1000, 8000, 64_000, MIB))])
def test_threads_share_fairly_whatever_the_size_of_their_pieces(rate: float, sizes: tuple[int, ...]) -> None:
    throttle, counts = Throttle(rate), [0] * len(sizes)
    end = threading.Event()

    def take(number: int) -> None:
        for piece in throttle.pace(endless(sizes[number]), Deadline(30)):
            if end.is_set():
                return
            counts[number] += len(piece)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(len(sizes))]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    end.wait(1)
    end.set()
    seconds = time.monotonic() - begun
    for thread in threads:
        thread.join()
    assert sum(counts) < rate * (seconds + 0.3)
    assert min(counts) > 0.25 * max(counts)
