"""The only module that fits tables into the width of a terminal."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ci_modelcache.cli.reports import columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH = 100
"""Where nobody says how wide it is: logs of CI systems, files, pipes."""
_LEAST = 20
"""Characters of a name by which it can still be told from others."""


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns


def shortened(name: str, most: int) -> str:
    """*name* in *most* characters, without its middle where that is too few; most differ at their ends."""
    if len(name) <= most:
        return name
    bare = name.removeprefix("https://").removeprefix("http://")
    if len(bare) <= most:
        return bare
    kept = most - 1
    return f"{bare[: kept - kept // 2]}…{bare[len(bare) - kept // 2 :]}"


def fitted(rows: Sequence[Sequence[str]], most: int) -> Iterator[str]:
    """
    *rows*, the first of which is the head, as a table of at most *most* columns: names, which come first, are shortened.

    Where that leaves too little of them, every row becomes a list of its own below its name.
    """
    rest = [max(map(len, column)) for column in zip(*rows, strict=True)][1:]
    room = most - sum(rest) - 2 * len(rest)
    if room >= min(_LEAST, max(len(row[0]) for row in rows)):
        yield from columns([(shortened(row[0], room), *row[1:]) for row in rows])
        return
    (_, *head), *body = rows
    for name, *cells in body:
        yield shortened(name, most)
        yield from columns([(f"  {title.lower()}", cell) for title, cell in zip(head, cells, strict=True)])
