"""The only module that knows in which hours of a day something may be done."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from attrs import frozen

from ci_modelcache.errors import ConfigError

_TEXT = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)(?:\s+(\S+))?", re.ASCII)
_HINT = "write it as 22:00-06:00, which is UTC, or with a zone: 22:00-06:00 Europe/Berlin"
_DAY = timedelta(days=1)


@frozen
class Window:
    """The hours of every day from *start* until *end*, on the clocks of *zone*; over midnight when *end* is the earlier one."""

    start: time
    end: time
    zone: tzinfo = UTC

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``22:00-06:00`` (UTC), ``09:00-24:00`` or ``22:00-06:00 Europe/Berlin``; raises `ConfigError`."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            msg = f'expected hours of the day, got "{text:.100}"'
            raise ConfigError(msg, hint=_HINT)
        hour, minute, last_hour, last_minute = (int(number or 0) for number in match.groups()[:4])
        start, end = time(hour, minute), time(last_hour, last_minute)
        if start == end:
            msg = f'the window "{text:.100}" begins and ends at the same time'
            raise ConfigError(msg, hint="leave it out if every hour will do")
        return cls(start, end, _zone(match[5] or "UTC"))

    def remaining(self, now: datetime) -> float:
        """Seconds that are left of the window at *now*, which knows its zone; 0 when that is outside."""
        today = now.astimezone(self.zone).date()
        for day in (today - _DAY, today):
            # Compared as UTC: within one zone Python compares what the clocks show, which some nights show twice.
            opens, closes = self._on(day)
            if opens <= now < closes:
                return (closes - now).total_seconds()
        return 0.0

    def _on(self, day: date) -> tuple[datetime, datetime]:
        last = day + _DAY if self.end < self.start else day
        opens = datetime.combine(day, self.start, self.zone)
        closes = datetime.combine(last, self.end, self.zone)
        return opens.astimezone(UTC), closes.astimezone(UTC)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.zone}"


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # known without a database
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        msg = f'this machine knows no time zone "{name:.100}"'
        raise ConfigError(
            msg,
            hint="check its name; where there is no database of zones, pip install tzdata, or write the window in UTC",
        ) from error
