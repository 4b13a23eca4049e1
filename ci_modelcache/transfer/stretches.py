"""The only module that knows how it is written down which bytes of a file have arrived, and from whom."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from attrs import frozen

GONE = "-"
"""In the place of a source: these bytes have not arrived after all."""

_LINE = re.compile(r"(\d{1,19}) (\d{1,19}) (\S+)\n")


@frozen
class Stretch:
    """Bytes *start* to *stop* (exclusive), which *source* sent."""

    start: int
    stop: int
    source: str

    @property
    def line(self) -> str:
        """As one line of a log."""
        return f"{self.start} {self.stop} {quote(self.source, safe='/:')}\n"


def parse_line(line: str) -> Stretch | None:
    """The stretch of a *line* of a log; None for one that is torn, or says nothing."""
    found = _LINE.fullmatch(line)
    if found is None or int(found[1]) >= int(found[2]):
        return None
    return Stretch(int(found[1]), int(found[2]), unquote(found[3]))


def over(known: list[Stretch], new: Stretch) -> list[Stretch]:
    """*known* with *new* in the place of whatever it overlaps; neighbours of one source become one."""
    before = [each for each in known if each.stop <= new.start]
    after = [each for each in known if each.start >= new.stop]
    cut = [
        piece
        for each in known[len(before) : len(known) - len(after)]
        for piece in (
            Stretch(each.start, new.start, each.source),
            Stretch(new.stop, each.stop, each.source),
        )
        if piece.start < piece.stop
    ]
    middle = sorted([*cut, new] if new.source != GONE else cut, key=lambda each: each.start)
    joined: list[Stretch] = []
    for each in (*before[-1:], *middle, *after[:1]):
        if joined and joined[-1].stop == each.start and joined[-1].source == each.source:
            joined[-1] = Stretch(joined[-1].start, each.stop, each.source)
        else:
            joined.append(each)
    return [*before[:-1], *joined, *after[1:]]
