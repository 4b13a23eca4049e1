"""Which source is asked next, and why; with a clock and dice of the test's own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import (
    BrokenOff,
    DigestMismatch,
    FileNotFound,
    ModelCacheError,
    RateLimited,
    Stalled,
    Unavailable,
)
from ci_modelcache.sources.health import Cause, Health, cause_of
from ci_modelcache.sources.router import Choice, Later, Router, Source
from ci_modelcache.transfer.events import Event
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import ModelRef

MB = 1e6
NOW = 1_800_000_000.0
LIE = DigestMismatch("a file", expected="a", actual="b")


@frozen
class Named:
    """A source of bytes that nobody opens."""

    url: str
    sends_ranges: bool | None = True

    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        raise NotImplementedError


@frozen
class Told:
    """Events that are kept."""

    events: list[Event] = field(factory=list)

    def record(self, event: Event, /) -> None:
        self.events.append(event)


class Scene:
    """Sources called a, b, c ..., with *speeds* in MB/s (None: not measured), first is most wanted."""

    def __init__(self, *speeds: float | None, connections: int = 8, dice: float = 0.99) -> None:
        self.clock = Clock(NOW)
        self.dice = dice
        self.told = Told()
        self.sources = [
            Source(Named(name), priority, Health(speed=None if speed is None else speed * MB, seen=NOW, attempts=1))
            for priority, (name, speed) in enumerate(zip("abcdef", speeds, strict=False))
        ]
        self.router = Router(
            self.sources, connections=connections, clock=self.clock, random=lambda: self.dice, events=self.told
        )
        self.waits: dict[str, float] = {}

    def ask(self, *, avoid: str = "", waited: float = 0.0) -> Choice | Later:
        return self.router.choose(
            avoid=set(avoid), waiting=lambda url: self.waits.get(url, 0.0), path="model.bin", waited=waited
        )

    def chosen(self, *, avoid: str = "") -> str:
        """Who is asked now; the connection stays."""
        choice = self.ask(avoid=avoid)
        assert isinstance(choice, Choice), choice
        return choice.source.url

    def once(self, *, avoid: str = "") -> str:
        """Who is asked now; the connection ends at once."""
        choice = self.ask(avoid=avoid)
        assert isinstance(choice, Choice), choice
        self.router.give_back(choice.source)
        return choice.source.url

    def fail(self, name: str, error: ModelCacheError, *, retry_after: float | None = None) -> None:
        self.router.failed(self[name], error, "model.bin", retry_after=retry_after)

    def __getitem__(self, name: str) -> Source:
        return next(source for source in self.sources if source.url == name)


# --- who is best


def test_the_fastest_is_asked_and_the_reason_says_so() -> None:
    scene = Scene(10, 50, 20)
    choice = scene.ask()
    assert isinstance(choice, Choice)
    assert choice.source.url == "b"
    assert choice.why == "the fastest: 50.0 MB/s"


@pytest.mark.parametrize(("first", "second", "expected"), [(38, 50, "a"), (37, 50, "b"), (50, 38, "a"), (50, 66, "a")])
def test_within_a_quarter_of_the_best_the_order_of_priority_decides(first: float, second: float, expected: str) -> None:
    assert Scene(first, second).once() == expected


def test_of_those_about_as_fast_the_least_busy_is_asked() -> None:
    scene = Scene(50, 45, 10)
    assert [scene.chosen() for _ in range(4)] == ["a", "b", "a", "b"]


def test_who_was_never_measured_is_tried_when_somebody_else_is_at_work_already() -> None:
    scene = Scene(50, None)
    assert scene.chosen() == "a"
    assert scene.chosen() == "b"
    assert scene.chosen() == "a"


def test_the_first_of_all_is_the_most_wanted_one() -> None:
    scene = Scene(None, None, None)
    assert [scene.chosen() for _ in range(3)] == ["a", "b", "c"]


@given(
    st.lists(st.one_of(st.none(), st.floats(0.001, 1000)), min_size=1, max_size=6),
    st.integers(1, 12),
    st.floats(0, 0.999),
)
def test_connections_are_bounded_for_all_together_and_for_each(
    speeds: list[float | None], connections: int, dice: float
) -> None:
    scene = Scene(*speeds, connections=connections, dice=dice)
    taken: Counter[str] = Counter()
    while isinstance(choice := scene.ask(), Choice):
        taken[choice.source.url] += 1
    assert choice == Later(0.0, busy=True)
    assert taken.total() == min(connections, taken.total()) <= connections
    assert all(taken[source.url] <= source.window for source in scene.sources)
    assert taken.total() == connections or all(taken[source.url] == source.window for source in _as_good(scene))
    for source in scene.sources:
        for _ in range(taken[source.url]):
            scene.router.give_back(source)
    assert isinstance(scene.ask(), Choice)


def _as_good(scene: Scene) -> list[Source]:
    best = max(source.expected for source in scene.sources)
    return [source for source in scene.sources if source.expected >= 0.75 * best]


def test_who_is_of_no_use_for_this_file_is_not_asked() -> None:
    scene = Scene(50, 45, 10)
    assert scene.once(avoid="a") == "b"
    assert scene.once(avoid="ab") == "c"
    assert scene.ask(avoid="abc") == Later(0.0, busy=True)


# --- exploration


def test_a_small_share_of_requests_goes_to_who_was_not_asked_for_minutes() -> None:
    scene = Scene(50, 10)
    asked: Counter[str] = Counter()
    for number in range(1000):
        scene.dice = number / 1000
        scene["b"].health.seen = NOW
        scene.clock.now = NOW + 301
        scene["a"].health.seen = scene.clock.now
        asked[scene.once()] += 1
    assert asked == {"a": 950, "b": 50}


def test_who_was_asked_a_moment_ago_is_not_explored() -> None:
    scene = Scene(50, 10, dice=0.0)
    scene.clock.now = NOW + 299
    assert scene.once() == "a"


def test_a_mirror_that_has_recovered_is_found_and_used() -> None:
    scene = Scene(50, 10, dice=0.0)
    scene.clock.now = NOW + 301
    scene["a"].health.seen = scene.clock.now
    assert scene.once() == "b"
    for _ in range(10):
        scene.router.measured(scene["b"], first_byte=0.1, received=10_000_000, seconds=0.1)
    assert scene.once() == "b"
    assert scene["b"].health.speed == pytest.approx(100 * MB, rel=0.05)


# --- barred, and half open


@pytest.mark.parametrize(
    ("error", "times"),
    [(LIE, 1), (Unavailable("503"), 4), (Stalled("silence"), 6), (BrokenOff("reset"), 6)],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_lie_bars_at_once_and_failures_when_there_are_too_many(error: ModelCacheError, times: int) -> None:
    scene = Scene(50, 10)
    for _ in range(times - 1):
        scene.fail("a", error)
        assert scene["a"].health.state(NOW) == "ready"
    scene.fail("a", error)
    assert scene["a"].health.state(NOW) == "barred"
    assert scene.once() == "b"


def test_success_takes_blame_away() -> None:
    scene = Scene(50, 10)
    for _ in range(30):
        scene.fail("a", BrokenOff("reset"))
        scene.router.succeeded(scene["a"])
    assert scene["a"].health.state(NOW) == "ready"


def test_one_that_was_barred_is_asked_again_later_and_one_more_lie_bars_it_for_longer() -> None:
    scene = Scene(50, 10)
    lasted = []
    for _ in range(8):
        scene.fail("a", LIE)
        lasted.append(scene["a"].health.barred_until - scene.clock.now)
        assert scene.once() == "b"
        scene.clock.now = scene["a"].health.barred_until
        scene["b"].health.seen = scene.clock.now
        assert scene.once() == "a"
    assert lasted == [30, 60, 120, 240, 480, 900, 900, 900]
    scene.router.succeeded(scene["a"])
    scene.router.succeeded(scene["a"])
    scene.fail("a", LIE)
    assert scene["a"].health.barred_until - scene.clock.now == 30


def test_one_that_comes_back_is_on_trial_half_as_many_failures_bar_it_again() -> None:
    scene = Scene(50, 10)
    scene.fail("a", LIE)
    scene.clock.now = scene["a"].health.barred_until
    for _ in range(2):
        scene.fail("a", BrokenOff("reset"))
        assert scene["a"].health.state(scene.clock.now) == "ready"
    scene.fail("a", BrokenOff("reset"))
    assert scene["a"].health.state(scene.clock.now) == "barred"


def test_saying_no_is_no_fault() -> None:
    scene = Scene(50, 10)
    for _ in range(20):
        scene.fail("a", FileNotFound("it has no such file"))
    assert scene["a"].health.state(NOW) == "ready"


# --- asked to wait


def test_who_asked_to_be_left_alone_is_until_then_and_others_are_asked() -> None:
    scene = Scene(50, 10)
    scene.fail("a", RateLimited("429", retry_after=20), retry_after=20)
    assert scene["a"].health.state(NOW) == "limited"
    assert scene.once() == "b"
    scene.clock.now = NOW + 19.9
    assert scene.once() == "b"
    scene.clock.now = NOW + 20
    assert scene.once() == "a"


def test_when_all_asked_to_wait_it_is_told_for_how_long_and_for_whom() -> None:
    scene = Scene(50, 10)
    scene.fail("a", RateLimited("429", retry_after=20), retry_after=20)
    scene.fail("b", RateLimited("429", retry_after=5), retry_after=5)
    assert scene.ask() == Later(5.0, busy=False, url="b")
    choice = scene.ask(waited=5.0)
    assert isinstance(choice, Choice)
    assert choice.source.url == "b"


def test_a_pause_of_one_file_does_not_keep_others_away() -> None:
    scene = Scene(50, 10)
    scene.waits["a"] = NOW + 3
    assert scene.once() == "b"
    scene.waits.clear()
    assert scene.once() == "a"


# --- the last resort


def test_one_that_is_barred_is_asked_when_nobody_else_is_left_the_one_first_that_will_be_free_first() -> None:
    scene = Scene(50, 10)
    scene.fail("b", LIE)
    scene.clock.now += 10
    scene.fail("a", LIE)
    choice = scene.ask()
    assert isinstance(choice, Choice)
    assert choice.source.url == "b"
    assert choice.why == "barred, but nobody else is left"


def test_what_a_mirror_asked_for_holds_also_when_nobody_else_is_left() -> None:
    scene = Scene(50)
    scene.fail("a", RateLimited("429", retry_after=20), retry_after=20)
    assert scene.ask() == Later(20.0, busy=False, url="a")


# --- how slow is too slow


def test_an_eighth_of_the_best_is_the_least() -> None:
    scene = Scene(40, 10)
    floor = scene.router.floor(scene["b"], avoid=())
    assert floor.rate == 5 * MB
    assert floor.because == "a has brought 40.0 MB a second"


def test_the_best_one_itself_is_measured_by_what_it_brought() -> None:
    scene = Scene(40, 10)
    assert scene.router.floor(scene["a"], avoid=()).rate == 5 * MB


def test_where_nobody_was_measured_one_that_brings_little_gives_way_to_who_was_not_tried() -> None:
    scene = Scene(None, None)
    floor = scene.router.floor(scene["a"], avoid=())
    assert floor.rate == MB / 8
    assert floor.because == "b has not been tried"


def test_the_only_source_has_no_floor_until_it_has_shown_what_it_can() -> None:
    scene = Scene(None)
    assert scene.router.floor(scene["a"], avoid=()).rate == 0
    scene["a"].health.speed = 8 * MB
    assert scene.router.floor(scene["a"], avoid=()).rate == MB


def test_slow_everywhere_is_slow_for_nobody() -> None:
    scene = Scene(0.01, 0.011, 0.009)
    for source in scene.sources:
        assert scene.router.floor(source, avoid=()).rate <= 0.011 * MB / 8


def test_who_may_not_be_asked_is_no_reason_to_leave_anybody() -> None:
    scene = Scene(0.01, 40, 40, 40)
    scene.fail("c", LIE)
    scene.fail("d", RateLimited("429", retry_after=20), retry_after=20)
    assert scene.router.floor(scene["a"], avoid="b").rate == pytest.approx(0.01 * MB / 8)


def test_many_connections_share_one_link() -> None:
    scene = Scene(40, 40)
    alone = scene.router.floor(scene["a"], avoid=()).rate
    for _ in range(8):
        scene.chosen()
    assert scene.router.floor(scene["a"], avoid=()).rate == alone / 4


# --- how many connections


def test_connections_to_one_source_grow_while_they_bring_more_and_shrink_when_it_is_in_trouble() -> None:
    scene = Scene(10, connections=64)
    for _ in range(40):
        while isinstance(scene.ask(), Choice):
            pass
        scene.router.succeeded(scene["a"])
    grown = scene["a"].busy
    assert 8 < grown <= 16
    scene.fail("a", Unavailable("503"))
    assert int(scene["a"].window) == grown // 2
    assert scene.ask() == Later(0.0, busy=True)


def test_there_is_room_only_for_who_would_help() -> None:
    scene = Scene(80, 5, connections=64)
    assert scene.router.has_room(avoid=(), waiting=lambda _: 0.0)
    for _ in range(int(scene["a"].window)):
        scene.chosen()
    # What is left is sixteen times slower: its part would be the last to come.
    assert not scene.router.has_room(avoid=(), waiting=lambda _: 0.0)
    scene["b"].health.speed = 20 * MB
    assert scene.router.has_room(avoid=(), waiting=lambda _: 0.0)
    assert not scene.router.has_room(avoid="b", waiting=lambda _: 0.0)


# --- in words


def test_every_change_of_source_is_told_once() -> None:
    scene = Scene(50, 10)
    for _ in range(5):
        scene.once()
    scene.fail("a", LIE)
    scene.once()
    told = [(getattr(event, "source", ""), getattr(event, "reason", "")) for event in scene.told.events]
    assert [source for source, _ in told] == ["a", "a", "b"]
    assert told[0][1] == "asked: the fastest: 50.0 MB/s"
    assert told[1][1].startswith("left alone for 30 s, the last reason: ")
    assert told[2][1] == "asked: the only one that can be asked now"


def test_every_error_has_its_word() -> None:
    assert cause_of(LIE) is Cause.WRONG_BYTES
    assert cause_of(RateLimited("429")) is Cause.RATE_LIMITED
    assert cause_of(Stalled("silence")) is Cause.STALLED
    assert cause_of(ValueError("a bug")) is Cause.OTHER
