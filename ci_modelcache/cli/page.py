"""The only module that writes pages: a picture as PNG, or with its tables as one HTML file that loads nothing."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cli.drawing import render, require_drawing
from ci_modelcache.errors import ConfigError
from ci_modelcache.transfer.land import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ci_modelcache.cli.drawing import Picture

_KINDS = {".png", ".html", ".htm"}
_CSS = """
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; background: #fff; color: #1b1f24;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
svg { display: block; width: 100%; height: auto; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.1rem; }
p { max-width: 60rem; color: #59636e; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #d8dde3; text-align: right; white-space: nowrap; }
th { color: #59636e; font-weight: 600; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; white-space: normal; }
"""


@frozen
class Table:
    """Rows of cells below a *head*; *note* says what they are."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def require_page(path: Path) -> None:
    """Raise `ConfigError` unless *path* is the name of a page and one can be drawn: to be asked before the work is done."""
    if path.suffix.lower() not in _KINDS:
        msg = f"cannot draw {path.name}: expected a name that ends with .png or .html"
        raise ConfigError(msg, hint="a .png is the picture alone, a .html has the figures too")
    require_drawing()


def write_page(path: Path, picture: Picture, tables: Sequence[Table] = ()) -> None:
    """Write *picture* to *path*: ``.png`` is the picture alone, ``.html`` has the *tables* below it. Replaces what is there."""
    require_page(path)
    alone = path.suffix.lower() == ".png"
    data = render(picture, "png") if alone else html(picture, tables).encode()
    with replacing(path) as file:
        file.write(data)


def html(picture: Picture, tables: Iterable[Table]) -> str:
    """A page, also well-formed as XML, with *picture* inside and no script, style or image from elsewhere."""
    drawn = render(picture, "svg").decode()
    # What comes before belongs to a file of its own.
    svg = drawn[drawn.index("<svg") :].strip()
    named = re.sub(r"^<svg", f'<svg role="img" aria-label="{_text(picture.title)}"', svg)
    below = "\n".join(line for table in tables for line in _table(table))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'" />
<title>{_text(picture.title)}</title>
<style>{_CSS}</style>
</head>
<body>
{named}
{below}
</body>
</html>
"""


def _table(table: Table) -> Iterator[str]:
    yield f"<h2>{_text(table.title)}</h2>"
    if table.note:
        yield f"<p>{_text(table.note)}</p>"
    yield '<div class="wide"><table>'
    yield f"<thead><tr>{''.join(f'<th>{_text(cell)}</th>' for cell in table.head)}</tr></thead>"
    yield "<tbody>"
    for row in table.rows:
        yield f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>"
    yield "</tbody></table></div>"


def _text(text: str) -> str:
    """*text* for HTML, also within quotes; what no page may hold, such as an escape sequence, is a question mark."""
    return escape("".join(char if char.isprintable() else "?" for char in text))
