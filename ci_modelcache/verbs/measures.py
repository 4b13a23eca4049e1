"""The only module that measures without keeping everything: samples and times of a report of any length, in bounded memory."""

from __future__ import annotations

import statistics
from array import array

from ci_modelcache.verbs.figures import Bin, Spread, Timeline

MOST_VALUES = 65_536
"""Values that a sample keeps; up to there its percentiles are exact."""
MOST_BINS = 360
"""Bins of a timeline: more than that no picture shows."""
_NARROWEST = 0.25
"""Seconds."""


def share(part: float, whole: float) -> float | None:
    """*part* of *whole*, 0 to 1; None of nothing."""
    return part / whole if whole else None


class Sample:
    """Values one by one; of very many every second, fourth, ... is kept, evenly over all of them."""

    def __init__(self) -> None:
        self.seen = 0
        self._values = array("d")
        self._every = 1

    def add(self, value: float) -> None:
        """One more *value*."""
        if self.seen % self._every == 0:
            self._values.append(value)
            if len(self._values) >= MOST_VALUES:
                self._values = self._values[::2]
                self._every *= 2
        self.seen += 1

    def spread(self) -> Spread:
        """How the values lie, interpolated between neighbours; the lowest is the percentile 0, the highest 100."""
        if not self._values:
            return Spread(0, None, None, None, None, None)
        # A single value, which Python 3.11 refuses, is all of its own percentiles.
        values = self._values * 2 if len(self._values) == 1 else self._values
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        return Spread(self.seen, cuts[0], cuts[4], cuts[9], cuts[14], cuts[18])


class TimelineBuilder:
    """Bytes by time and source; bins grow wider, by doubling, so that there are never more than `MOST_BINS`."""

    def __init__(self) -> None:
        self._width = _NARROWEST
        self._bins: dict[int, dict[str, float]] = {}

    def add(self, source: str, received: int, *, begin: float, end: float) -> None:
        """*received* bytes of *source* came from *begin* to *end*, in seconds since 1970."""
        while (end - begin) / self._width > MOST_BINS:
            self._widen()
        first, last = int(begin // self._width), int(end // self._width)
        for number in range(first, last + 1):
            low, high = max(begin, number * self._width), min(end, (number + 1) * self._width)
            part = (high - low) / (end - begin) if end > begin else 1.0
            amounts = self._bins.setdefault(number, {})
            if received:
                amounts[source] = amounts.get(source, 0.0) + received * part
        while len(self._bins) > MOST_BINS:
            self._widen()

    def _widen(self) -> None:
        self._width *= 2
        narrow, self._bins = self._bins, {}
        for number, amounts in narrow.items():
            wide = self._bins.setdefault(number // 2, {})
            for source, received in amounts.items():
                wide[source] = wide.get(source, 0.0) + received

    def timeline(self) -> Timeline:
        """What came when."""
        bins = (Bin(number * self._width, amounts) for number, amounts in sorted(self._bins.items()))
        return Timeline(self._width, tuple(bins))
