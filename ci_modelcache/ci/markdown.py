"""The only module that writes an outcome as Markdown: the summary of a GitHub step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci_modelcache.ci.outcome import ModelOutcome, Outcome

_HEAD = ("model", "revision", "result", "source", "files", "size", "seconds", "MB/s", "hit ratio", "verified against")
_NUMBERS = frozenset({"files", "size", "seconds", "MB/s", "hit ratio"})
_SHORT = 12
_SOME = 10
_MB = 1e6
_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#|!~@])")


def text(value: str) -> str:
    """*value* as the plain text of one line, whatever is in it: no markup, no link, no mention, no break of a table."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
    return _SPECIAL.sub(r"\\\1", shown).replace("&", "&amp;")


def summary(outcome: Outcome) -> str:
    """A table of all models, the failure, the mirrors, and a warning about files that run code."""
    return "\n".join(_lines(outcome)) + "\n"


def _lines(outcome: Outcome) -> Iterator[str]:
    yield f"### Models: {text(outcome.result)}"
    yield ""
    if outcome.failure is not None:
        hint = f"  \nhint: {text(outcome.failure.hint)}" if outcome.failure.hint else ""
        yield f"**{text(outcome.failure.message)}**{hint}"
        yield ""
    if outcome.models:
        yield _row(_HEAD)
        yield _row(["---:" if name in _NUMBERS else "---" for name in _HEAD])
        yield from (_row(_cells(model)) for model in outcome.models)
        yield ""
    for model in outcome.models:
        yield from _mirrors(model)
        yield from (f"- warning: {text(warning)}" for warning in model.warnings)
        yield from _running(model)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(model: ModelOutcome) -> Sequence[str]:
    return (
        text(model.ref),
        text(model.commit[:_SHORT]) or "-",
        text(model.result),
        text(model.source) or "-",
        str(model.files),
        format_bytes(model.size),
        f"{model.seconds:.1f}",
        f"{model.received / model.seconds / _MB:.1f}" if model.received and model.seconds else "-",
        f"{model.hit_ratio:.0%}".replace("%", " %"),
        text(model.verified) or "-",
    )


def _mirrors(model: ModelOutcome) -> Iterator[str]:
    if model.mirrors:
        shares = sorted(model.mirrors.items(), key=lambda item: (-item[1], item[0]))
        yield f"- {text(model.ref)} from " + ", ".join(f"{text(url)}: {format_bytes(size)}" for url, size in shares)


def _running(model: ModelOutcome) -> Iterator[str]:
    if not model.running:
        return
    rest = len(model.running) - _SOME
    names = ", ".join(map(text, model.running[:_SOME])) + (f" and {rest} more" if rest > 0 else "")
    yield f"- **may run code when loaded** ({text(model.ref)}): {names}"
