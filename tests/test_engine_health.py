"""What is held against a source ends some day, whatever clocks and servers said; and reading past bytes is no silence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.sources.bodies import _skipping
from ci_modelcache.sources.health import BARRED_MOST, LIMITED_MOST, Cause, Health
from ci_modelcache.sources.standing import Standing
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.watch import watched
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "https://a"
YEARS = 4 * 365 * 86_400.0


@pytest.mark.parametrize("asked", [YEARS, math.inf])
def test_no_source_is_left_alone_for_longer_than_an_hour_because_it_asked(asked: float) -> None:
    health = Health()
    health.failed(Cause.RATE_LIMITED, now=1000.0, retry_after=asked)
    assert health.limited_until == 1000.0 + LIMITED_MOST


def test_what_was_noted_by_a_clock_that_was_years_ahead_counts_for_nothing(tmp_path: Path) -> None:
    clock = Clock(1000.0 + YEARS)
    ahead = Standing(tmp_path / "mirrors.json", clock=clock)
    health = Health()
    health.measured(first_byte=0.1, received=2_000_000, seconds=1.0, now=clock())
    health.failed(Cause.WRONG_BYTES, now=clock())
    health.failed(Cause.RATE_LIMITED, now=clock(), retry_after=60)
    ahead.save({URL: health})
    clock.now = 1000.0
    known = Standing(tmp_path / "mirrors.json", clock=clock).load()[URL]
    assert known.state(clock()) == "ready"
    assert known.seen <= clock()
    assert known.speed == pytest.approx(2_000_000)


def test_the_longest_bar_is_believed_by_the_next_run(tmp_path: Path) -> None:
    clock = Clock()
    health = Health(attempts=1, seen=clock(), barred_until=clock() + BARRED_MOST, limited_until=clock() + LIMITED_MOST)
    Standing(tmp_path / "mirrors.json", clock=clock).save({URL: health})
    known = Standing(tmp_path / "mirrors.json", clock=clock).load()[URL]
    assert (known.barred_until, known.limited_until) == (health.barred_until, health.limited_until)


def test_what_another_process_holds_against_a_source_stays_where_this_one_asked_it_nothing(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "mirrors.json"
    Standing(path, clock=clock).save({URL: Health(attempts=1, seen=clock())})
    here, there = Standing(path, clock=clock), Standing(path, clock=clock)
    idle, busy = here.load(), there.load()
    busy[URL].measured(first_byte=None, received=0, seconds=1.0, now=clock())
    busy[URL].failed(Cause.WRONG_BYTES, now=clock())
    there.save(busy)
    here.save(idle)
    known = Standing(path, clock=clock).load()[URL]
    assert (known.barred, known.blame) == (busy[URL].barred, busy[URL].blame)
    assert known.barred == 1


def test_a_source_that_is_read_from_its_beginning_up_to_where_bytes_are_wanted_is_not_silent() -> None:
    clock = Clock()

    def slowly() -> Iterator[bytes]:
        for _ in range(100):
            clock.sleep(0.5)
            yield bytes(1000)

    pieces = _skipping(90_000, slowly(), Deadline(), "reading model.bin")
    assert sum(map(len, watched(pieces, what=URL, clock=clock))) == 10_000
