"""The hours in which something may be done: read, over midnight, and in zones whose clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.window import Window

HOUR = 3600.0


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "now", "hours"),
    [
        ("22:00-06:00", "2026-11-21 22:00", 8),
        ("22:00-06:00", "2026-11-21 23:30", 6.5),
        ("22:00-06:00", "2026-11-21 05:30", 0.5),
        ("22:00-06:00", "2026-11-21 06:00", 0),
        ("22:00-06:00", "2026-11-21 21:59", 0),
        ("09:00-17:00", "2026-11-21 09:00", 8),
        ("09:00-17:00", "2026-11-21 17:00", 0),
        ("18:00-24:00", "2026-11-21 23:00", 1),
        ("18:00-24:00", "2026-11-21 00:00", 0),
        ("00:00-06:00", "2026-11-21 00:00", 6),
        ("22:00-06:00 UTC", "2026-11-21 22:00", 8),
        ("22:00-06:00 Europe/Berlin", "2026-11-21 21:00", 8),
        ("22:00-06:00 Europe/Berlin", "2026-11-21 22:00", 7),
        ("22:00-06:00 Europe/Berlin", "2026-07-01 20:00", 8),
        ("22:00-06:00\tAsia/Tokyo", "2026-11-21 13:00", 8),
        # The nights in which clocks change have an hour less, and an hour more.
        ("22:00-06:00 Europe/Berlin", "2026-03-28 21:00", 7),
        ("22:00-06:00 Europe/Berlin", "2026-10-24 20:00", 9),
        ("02:00-03:00 Europe/Berlin", "2026-10-25 00:30", 1.5),
    ],
)
def test_what_is_left_of_a_window(text: str, now: str, hours: float) -> None:
    window = Window.parse(text)
    assert window.remaining(at(now)) == hours * HOUR
    assert window.remaining(at(now).astimezone(ZoneInfo("America/New_York"))) == hours * HOUR


@pytest.mark.parametrize(
    "text",
    [
        "",
        "22-06",
        "22:00",
        "22:00-06:00-",
        "24:00-06:00",
        "22:00-24:30",
        "22:60-06:00",
        "2:00-6:00",
        "22:00 - 06:00",
        "22:00-06:00Z",
        "٢٢:00-06:00",
        "22:00-22:00",
        "00:00-24:00",
        "22:00-06:00 Europe/Atlantis",
        "22:00-06:00 Europe",
        "22:00-06:00 ../../etc/passwd",
        "22:00-06:00 /etc/localtime",
    ],
)
def test_what_is_no_window_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Window.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["22:00-06:00 UTC", "09:30-17:00 Europe/Berlin"])
def test_a_window_is_shown_as_it_is_written(text: str) -> None:
    assert str(Window.parse(text)) == text
    assert Window.parse(str(Window.parse(text))) == Window.parse(text)
