"""Durations mean one thing, and a deadline ends every wait with a sentence that says what was being done."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import ConfigError, Unavailable
from ci_modelcache.transfer.deadline import Deadline, format_duration, parse_duration
from tests.parts.clocks import Clock

DURATIONS = {
    "0": 0,
    "90": 90,
    "0.5": 0.5,
    "90s": 90,
    "15m": 900,
    "1.5h": 5400,
    "1h30m": 5400,
    "1h5s": 3605,
    "1d": 86400,
    "1d2h3m4s": 93784,
    "90m": 5400,
    "999999999": 999_999_999,
}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "m",
            "1x",
            "x1",
            "1h1h",
            "30m1h",
            "1h30",
            "90 s",
            " 90",
            "90\n",
            "-5",
            "+5",
            "1e3",
            ".5",
            "5.",
            "1,5",
        ),
        *("1_0", "inf", "nan", "None", "\u0661m", "1H", "1hour", "1234567890", "0x10"),
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^not a duration: ") as caught:
        parse_duration(text)
    assert caught.value.hint == "write it as 90s, 15m, 1h30m or 1d"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "0.25s"),
        (90, "90s"),
        (119.4, "119s"),
        (120, "2m"),
        (5400, "1h30m"),
        (86400, "1d"),
        (93784.2, "1d2h3m4s"),
        (1e12, "years"),
        (math.inf, "years"),
    ],
)
def test_a_duration_is_shown_as_it_is_typed(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(120, 999_999_999))
def test_a_duration_that_is_shown_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_time_left_runs_out_and_stays_at_zero() -> None:
    clock = Clock()
    deadline = Deadline(10, clock=clock)
    assert deadline.remaining() == 10
    clock.sleep(4)
    assert deadline.remaining() == 6
    deadline.check("waiting")
    clock.sleep(60)
    assert deadline.remaining() == 0


def test_the_end_says_how_long_it_was_what_was_done_and_what_went_wrong() -> None:
    clock = Clock()
    deadline = Deadline(900, clock=clock)
    clock.sleep(900)
    with pytest.raises(Exception, match=r"^the deadline of 15m passed while reading model.bin$") as caught:
        deadline.check("reading model.bin")
    assert type(caught.value).__name__ == "DeadlineExceeded"
    because = deadline.exceeded("reading model.bin", because=Unavailable("connection reset"))
    assert str(because) == "the deadline of 15m passed while reading model.bin; last failure: connection reset"
    assert because.hint == "raise --deadline, or run again: what was received is kept"


def test_without_a_deadline_nothing_ends() -> None:
    clock = Clock()
    deadline = Deadline(clock=clock)
    clock.sleep(1e5)
    assert deadline.remaining() == math.inf
    deadline.check("anything")
    assert deadline.at_most(30) == 30


def test_a_wait_is_cut_to_what_is_left_but_never_to_zero() -> None:
    clock = Clock()
    deadline = Deadline(10, clock=clock)
    assert deadline.at_most(30) == 10
    assert deadline.at_most(5) == 5
    clock.sleep(11)
    assert 0 < deadline.at_most(30) < 0.1


def test_a_deadline_of_zero_has_passed_already() -> None:
    with pytest.raises(Exception, match="the deadline of 0s passed while starting"):
        Deadline(0, clock=Clock()).check("starting")


def test_an_error_says_where_the_time_went() -> None:
    clock = Clock()
    deadline = Deadline(10, clock=clock, account=lambda: "waited 9 s for https://a (stalled)")
    told = "; where the time went: waited 9 s for https://a (stalled)"
    assert str(deadline.exceeded("reading x")) == f"the deadline of 10s passed while reading x{told}"
    far = deadline.too_far(20, "reading x", because=Unavailable("reset"))
    assert str(far) == (
        f"the deadline of 10s leaves 10s, and reading x would be tried again in 20s; last failure: reset{told}"
    )


def test_the_deadline_of_a_part_says_so_too() -> None:
    deadline = Deadline(10, clock=Clock(), account=lambda: "waited 9 s")
    for part in (deadline.watched(1), deadline.sooner(5)):
        assert str(part.exceeded("reading x")).endswith("; where the time went: waited 9 s")


def test_a_deadline_that_ends_sooner_for_another_reason_is_called_by_it() -> None:
    clock = Clock()
    whole = Deadline(60, clock=clock)
    window = whole.ending(20, "the window 22:00-06:00 UTC")
    assert (window.remaining(), whole.ending(90, "the window").remaining()) == (20, 60)
    assert whole.ending(90, "the window") is whole
    assert Deadline(clock=clock).ending(20, "the window").remaining() == 20
    for each in (window, window.sooner(30), window.sooner(5), window.watched(1)):
        error = each.exceeded("fetching a")
        assert str(error) == "the window 22:00-06:00 UTC passed while fetching a"
        assert error.hint == "run again: what was received is kept"
    assert str(window.too_far(30, "fetching a", because=Unavailable("down"))).startswith(
        "the window 22:00-06:00 UTC leaves 20s, and fetching a would be tried again in 30s"
    )
