"""Lanes end when there is nothing to do, wait for nobody in vain, and take one outage for one: seen on sources that fail on cue."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import BrokenOff, ConfigError, Misanswer, ModelCacheError, NoSpace, RateLimited
from ci_modelcache.model.digest import Digest, verified
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.course import Course
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.offline import Offline
from ci_modelcache.sources.router import Later, Router, Source
from ci_modelcache.transfer.assemble import SPLIT, Claims
from ci_modelcache.transfer.partial import Partial
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.receive import Inbound, receive
from ci_modelcache.verbs.step import Step
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.transfer.events import Event

REF = ModelRef.parse("acme/tiny@" + "1" * 40)
PIECE = 256 * 1024


class Sending:
    """Implements `ByteSource` for *data*; *before* is called with the start of each request, and may fail it."""

    def __init__(
        self,
        data: bytes,
        name: str = "a",
        before: Callable[[int], None] = lambda _start: None,
        slowed: float = 0.0,
    ) -> None:
        self.url = f"https://{name}"
        self.sends_ranges: bool | None = True
        self.strict_ranges = True
        self.opened = 0
        self._data = data
        self._before = before
        self._slowed = slowed

    @contextmanager
    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        del ref, commit, file
        self._before(start)
        end = len(self._data) if stop is None else stop
        self.opened += 1
        try:
            yield self._pieces(start, end)
        finally:
            self.opened -= 1

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, PIECE):
            threading.Event().wait(self._slowed)
            yield self._data[at : min(at + PIECE, end)]


class Told:
    """Events in a list."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event, /) -> None:
        self.events.append(event)

    def kinds(self) -> list[str]:
        return [each.kind for each in self.events]


def listed(data: bytes) -> ListedFile:
    digest = Digest(hashlib.sha256(data).hexdigest())
    return ListedFile("model.bin", len(data), "2" * 40, digest, lfs=True, executable=False)


def router(*sources: Sending, clock: Callable[[], float], connections: int = 8, told: Told | None = None) -> Router:
    placed = [Source(source, 100 - number) for number, source in enumerate(sources)]
    return Router(placed, connections=connections, clock=clock, random=lambda: 0.5, events=told)


def course(data: bytes, routes: Router, clock: Clock, attempts: int = 6) -> Course:
    retry = RetryPolicy(attempts=attempts, sleep=clock.sleep, jitter=lambda low, high: (low + high) / 2)
    return Course(REF, listed(data), routes, retry)


def inbound(folder: Path, data: bytes, routes: Router, clock: Clock) -> Inbound:
    del data
    retry = RetryPolicy(sleep=clock.sleep)
    return Inbound(REF, Mirrors(Offline("a"), routes, retry=retry), folder, Step(folder, retry=retry))


def proving(data: bytes) -> Callable[[Iterator[bytes], Partial | None], bytes]:
    def take(pieces: Iterator[bytes], _partial: Partial | None) -> bytes:
        return b"".join(verified(pieces, listed(data).expected, "model.bin"))

    return take


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_file_that_is_complete_waits_for_no_source_that_asked_to_be_left_alone(tmp_path: Path, clock: Clock) -> None:
    data = bytes(1000)

    def limited(_start: int) -> None:
        # Another file of the step was told so meanwhile.
        routes.failed(routes.sources[0], RateLimited("wait", retry_after=300), "other.bin", retry_after=300)

    routes = router(Sending(data, before=limited), clock=clock)
    received = receive(listed(data), inbound(tmp_path, data, routes, clock), take=proving(data))
    assert received.result == data
    assert not clock.slept


def test_a_server_that_restarts_costs_one_attempt_however_many_connections_it_had(clock: Clock) -> None:
    data = bytes(1000)
    way = course(data, router(Sending(data), clock=clock), clock, attempts=2)
    source = way.router.sources[0]
    readings = [way.attempting(source, 0, 1000) for _ in range(8)]
    for reading in readings:
        with reading:
            raise BrokenOff("restarted")
    assert not way.trials.barred
    with way.attempting(source, 0, 1000):
        raise BrokenOff("still away")
    assert way.trials.barred == {source.url}


def test_one_outage_bars_a_source_once(clock: Clock) -> None:
    routes = router(Sending(b""), clock=clock)
    source = routes.sources[0]
    for _ in range(16):
        routes.failed(source, BrokenOff("restarted"), "model.bin")
    assert source.health.barred_until - clock.now == pytest.approx(30)
    assert source.health.failures["broken-off"] == 16


def test_a_source_that_is_set_up_wrongly_is_left_alone_after_a_few_files(clock: Clock) -> None:
    routes = router(Sending(b""), clock=clock)
    for number in range(2):
        routes.failed(routes.sources[0], ConfigError("its certificate cannot be verified"), f"{number}.bin")
    assert routes.sources[0].health.state(clock.now) == "barred"


def test_nobody_is_asked_before_its_time_because_another_was_waited_for(clock: Clock) -> None:
    data = bytes(1000)
    routes = router(Sending(data, "soon"), Sending(data, "late"), clock=clock)
    soon, late = routes.sources
    soon.health.limited_until, late.health.limited_until = clock.now + 10, clock.now + 18
    way = course(data, routes, clock)
    assert way._next(lambda: True, threading.Event()) is soon  # what is decided, not what is brought
    assert clock.slept == [10]


def test_a_clock_that_stands_still_does_not_keep_a_lane_waiting_for_ever() -> None:
    data, moved = bytes(1000), Clock()
    routes = router(Sending(data), clock=lambda: 1000.0)
    routes.sources[0].health.limited_until = 1010.0
    assert course(data, routes, moved)._next(lambda: True, threading.Event()) is not None
    assert moved.slept == [10]


def test_who_finds_all_sources_on_trial_takes_a_turn_and_does_not_spin(clock: Clock) -> None:
    routes = router(Sending(b""), clock=clock)
    later = routes.choose(avoid={"https://a"}, waiting=lambda _url: 0.0, path="model.bin")
    assert later == Later(0.0, busy=True)


def test_wrong_bytes_of_a_source_that_is_not_configured_any_more_are_fetched_from_others(
    tmp_path: Path, clock: Clock
) -> None:
    data = bytes(range(250)) * 4
    file = listed(data)
    assert file.sha256 is not None
    with Partial.opened(tmp_path, file.sha256.hex, file.size) as partial, partial.writing(0, "https://gone") as pen:
        pen.write(bytes(1000))
    routes = router(Sending(data), Sending(data, "b"), clock=clock)
    received = receive(file, inbound(tmp_path, data, routes, clock), take=proving(data))
    assert received.result == data
    assert "https://gone" not in received.sources


def test_who_takes_bytes_and_fails_leaves_no_connection_at_work(tmp_path: Path, clock: Clock) -> None:
    data = bytes(8 * SPLIT)
    source = Sending(data, slowed=0.05)
    kept: list[ModelCacheError] = []

    def take(pieces: Iterator[bytes], _partial: Partial | None) -> None:
        next(pieces)
        raise NoSpace("full")

    routes = router(source, clock=clock)
    try:
        receive(listed(data), inbound(tmp_path, data, routes, clock), take=take)
    except NoSpace as error:
        kept.append(error)
        assert source.opened == 0
        assert routes.sources[0].busy == 0
    assert kept


def test_a_file_that_is_received_first_and_taken_later_is_told_once(tmp_path: Path, clock: Clock) -> None:
    data, told = bytes(1000), Told()
    routes = router(Sending(data), clock=clock, told=told)
    way = inbound(tmp_path, data, routes, clock)
    receive(listed(data), way, take=proving(data), keep=True)
    receive(listed(data), way, take=proving(data))
    assert told.kinds().count("file") == 1


def test_two_connections_that_find_nobody_left_at_once_both_go_on_without_ranges(clock: Clock) -> None:
    data = bytes(1000)
    way = course(data, router(Sending(data), Sending(data, "b"), clock=clock), clock)
    for source in way.router.sources:
        way.trials.failed(source.url, Misanswer("got the whole file", about="range"))
    assert way.trials.relent()
    assert way.trials.relent()
    assert not way.trials.barred


def test_ranges_that_are_at_work_end_with_a_liar(tmp_path: Path, clock: Clock) -> None:
    data = bytes(2 * SPLIT)
    way = course(data, router(Sending(data), Sending(data, "b"), clock=clock), clock)
    with Partial.opened(tmp_path, "3" * 64, len(data)) as partial:

        def disowned(_start: int) -> None:
            way.set_aside("https://a", "differs")
            partial.disown("https://a")

        way.router.sources[0].bytes = Sending(data, before=disowned)
        way.router.sources[1].health.limited_until = clock.now + 5
        way.bring(Claims(partial), alone=lambda: True, stopping=threading.Event())
        assert {each.source for each in partial.stretches} == {"https://b"}
        assert not partial.gaps()


def test_who_was_only_suspected_is_asked_again_when_nobody_else_answers(tmp_path: Path, clock: Clock) -> None:
    data = bytes(1000)

    def away(_start: int) -> None:
        raise BrokenOff("away")

    routes = router(Sending(data), Sending(data, "b", before=away), clock=clock)
    way = course(data, routes, clock, attempts=2)
    way.set_aside("https://a", "differs from https://b")
    with Partial.opened(tmp_path, "3" * 64, len(data)) as partial:
        way.bring(Claims(partial), alone=lambda: True, stopping=threading.Event())
        assert not partial.gaps()
        way.proven(partial.stretches)
    assert way.convicted == []
