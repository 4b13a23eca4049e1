"""A source is too slow by what it sent in a window in which it was waited for; a trickle is a stall, a slow consumer is not."""

from __future__ import annotations

import itertools
import re
import time
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import Stalled, Unavailable
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.watch import Floor, watched
from tests.parts.clocks import Clock
from tests.parts.hub_faults import Trickle, files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ci_modelcache.demo.hub import LoopbackHub

KB = 1000
MB = 1000 * KB
LEAST = Floor(2.5 * MB, "https://b sends 10.0 MB a second")


def sending(clock: Clock, *phases: tuple[float, float], every: float = 0.1) -> Iterator[bytes]:
    """For so many seconds so many bytes a second, one phase after the other, in pieces *every* so often."""
    for seconds, rate in phases:
        for _ in range(round(seconds / every)):
            clock.sleep(every)
            yield bytes(round(rate * every))


def taken(pieces: Iterable[bytes]) -> tuple[int, str]:
    """How many bytes came, and how it ended."""
    count = 0
    try:
        for piece in pieces:
            count += len(piece)
    except Stalled as error:
        return count, str(error)
    return count, ""


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_fast_enough_passes_unchanged(clock: Clock) -> None:
    pieces = [bytes([n]) * MB for n in range(50)]

    def slowly() -> Iterator[bytes]:
        for piece in pieces:
            clock.sleep(0.3)
            yield piece

    assert list(watched(slowly(), what="x", floor=lambda: LEAST, clock=clock)) == pieces


def test_a_source_that_drops_to_a_trickle_is_left_within_ten_seconds(clock: Clock) -> None:
    begun = clock.now
    source = sending(clock, (30, 20 * MB), (1000, 50 * KB), every=0.05)
    count, said = taken(watched(source, what="https://a: model.bin", floor=lambda: LEAST, clock=clock))
    assert 30 < clock.now - begun < 40
    assert count > 600 * MB
    assert re.fullmatch(
        r"https://a: model\.bin: [0-9.]+ MB in the last 8 s, where 2\.5 MB a second are the least; "
        r"https://b sends 10\.0 MB a second",
        said,
    )


def test_the_sentence_has_the_figures_of_the_window(clock: Clock) -> None:
    floor = Floor(100 * KB)
    _, said = taken(watched(sending(clock, (60, 50 * KB)), what="https://a", floor=lambda: floor, clock=clock))
    assert said == "https://a: 400.0 kB in the last 8 s, where 100.0 kB a second are the least"


def test_there_is_no_verdict_before_the_first_window_is_full(clock: Clock) -> None:
    count, said = taken(watched(sending(clock, (7.9, 1 * KB)), what="x", floor=lambda: LEAST, clock=clock))
    assert (count, said) == (7900, "")


def test_without_a_floor_a_trickle_is_fast_enough(clock: Clock) -> None:
    assert taken(watched(sending(clock, (100, 10)), what="x", clock=clock)) == (1000, "")


def test_silence_for_a_whole_window_is_a_stall_without_a_floor_and_the_bytes_that_came_are_kept(clock: Clock) -> None:
    def silent() -> Iterator[bytes]:
        yield b"a" * 10
        clock.sleep(9)
        yield b"b" * 10
        pytest.fail("asked on")

    assert taken(watched(silent(), what="https://a: x", clock=clock)) == (20, "https://a: x: nothing came for 9 s")


def test_the_last_piece_is_given_to_who_needs_no_other(clock: Clock) -> None:
    pieces = watched(sending(clock, (0.1, 10), (9, 10), every=0.1), what="x", floor=lambda: LEAST, clock=clock)
    needed = 80
    assert sum(len(piece) for piece in itertools.islice(pieces, needed)) == needed


@pytest.mark.parametrize("pause", [1.0, 30.0])
def test_a_consumer_that_is_slow_does_not_make_its_source_look_slow(clock: Clock, pause: float) -> None:
    count = 0
    for piece in watched(sending(clock, (20, 5 * MB)), what="x", floor=lambda: LEAST, clock=clock):
        clock.sleep(pause)
        count += len(piece)
    assert count == 100 * MB


def test_what_is_too_slow_is_asked_anew_all_the_time(clock: Clock) -> None:
    """The router lowers the floor when everybody is slow, and raises it when somebody else is found to be faster."""
    begun = clock.now
    source = sending(clock, (100, 1 * MB))
    pieces = watched(source, what="x", floor=lambda: LEAST if clock.now - begun > 50 else Floor(), clock=clock)
    count, said = taken(pieces)
    assert 50 * MB < count < 51 * MB
    assert said


def test_the_floor_is_asked_some_times_in_a_window_and_not_for_every_piece(clock: Clock) -> None:
    asked: list[float] = []

    def floor() -> Floor:
        asked.append(clock.now)
        return Floor()

    taken(watched(sending(clock, (16, 1 * MB), every=0.001), what="x", floor=floor, clock=clock))
    assert 60 <= len(asked) <= 70


def test_what_the_source_raises_passes_through(clock: Clock) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"a"
        msg = "reset"
        raise Unavailable(msg)

    pieces = watched(breaking(), what="x", clock=clock)
    assert next(pieces) == b"a"
    with pytest.raises(Unavailable, match=r"^reset$"):
        next(pieces)


def test_a_real_trickle_over_a_socket_is_seen(hub: LoopbackHub) -> None:
    hub.faults.append(Trickle(rate=200, when=files))
    url = f"{hub.url}/acme/tiny/resolve/main/README.md"
    with HttpSession() as session, session.ask(url, doing="asking", deadline=Deadline(30)) as answer:
        begun = time.monotonic()
        pieces = watched(answer.pieces(), what=hub.url, floor=lambda: Floor(1 * MB), window=0.02)
        with pytest.raises(Stalled, match=r"B in the last 0\.02 s, where 1\.0 MB a second are the least"):
            list(pieces)
        assert time.monotonic() - begun < 20
