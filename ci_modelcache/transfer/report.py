"""
The only module that knows the format of a report: one JSON object a line, for every run and every event of it.

``{"event":"attempt","at":1763697600.125,"run":"9f2c11d0","source":"https://hub.example",...}``: *at* is when it was
over (a pause: when it began), in seconds since 1970; *run* tells the lines of one command from those of others that write to the same file.
docs/events.md says what each event and field means. Everything is ASCII and without line breaks, whatever came in.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import attrs
from attrs import frozen

from ci_modelcache.errors import ConfigError, ManifestInvalid
from ci_modelcache.model.document import parse_json
from ci_modelcache.transfer.events import Attempt, Decision, Event, FileDone, SnapshotDone, TokenAsked, Waited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

FORMAT = 1

MAX_LINE = 1 << 20
"""Bytes; no line is written longer, and a file with a longer one is no report."""

HEAD = 4096
"""Bytes of a file that tell whether it is a report."""
_BEGIN = b'{"event":"'
"""How every line begins: what is left of one that was never finished can be told by it."""
_LONGEST = 1000
"""Characters of a text; an error that quotes a whole page must not fill the disk."""
_MOST = 10**15
"""Larger than any number of bytes or seconds that can be true: beyond it sums would lose bytes."""


@frozen
class RunStarted:
    """The first line of a run: *command* of ci-modelcache *version* began to write."""

    kind: ClassVar[str] = "run"

    format: int
    version: str
    command: str


@frozen
class Recorded:
    """One line that was understood; *unknown* are its fields that were not: a later version wrote them."""

    at: float
    run: str
    event: Event | RunStarted
    unknown: tuple[str, ...] = ()


@frozen
class Skipped:
    """One line that was not understood: *where* is ``file:line``, *what* an event of a later version, or empty for a torn line."""

    where: str
    what: str = ""


EVENTS: tuple[type[Any], ...] = (RunStarted, Attempt, Decision, Waited, TokenAsked, FileDone, SnapshotDone)
"""Every class that makes lines."""

_KINDS = {kind.kind: kind for kind in EVENTS}


def _text(value: object) -> bool:
    return isinstance(value, str)


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _number(value: object) -> bool:
    return type(value) in {int, float} and 0 <= value < _MOST  # type: ignore[operator]  # its type is looked at just before


def _amounts(value: object) -> bool:
    return isinstance(value, dict) and all(_text(key) and _whole(each) for key, each in value.items())


_EXPECTED: dict[object, tuple[Callable[[object], bool], str]] = {
    str: (_text, "a text"),
    int: (_whole, "a whole number, not negative"),
    float: (_number, "a number, not negative"),
    int | None: (lambda value: value is None or _whole(value), "a whole number or null"),
    float | None: (lambda value: value is None or _number(value), "a number or null"),
    dict[str, int]: (_amounts, "an object of whole numbers"),
}
"""What a field of a type may hold, in code and in words."""

_FIELDS: Mapping[str, Mapping[str, object]] = {
    name: {field.name: get_type_hints(kind)[field.name] for field in attrs.fields(kind)}
    for name, kind in _KINDS.items()
}
_REQUIRED = {
    name: {field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING}
    for name, kind in _KINDS.items()
}
_ENVELOPE: Mapping[str, object] = {"at": float, "run": str}


def to_line(event: Event | RunStarted, *, at: float, run: str, redact: Callable[[str], str]) -> bytes:
    """
    The line of *event*, with its line break; every text in it went through *redact*, and a long one is cut.

    Raises `ValueError` for an event that `read` would refuse, such as one with negative seconds.
    """

    def safe(value: object) -> object:
        if isinstance(value, str):
            # Redacted before it is cut: the half of a secret is not known as one.
            return redact(value)[:_LONGEST]
        if isinstance(value, float):
            return round(value, 6)
        if isinstance(value, dict):
            return _summed((str(safe(key)), each) for key, each in value.items())
        return value

    fields = {name: safe(getattr(event, name)) for name in _FIELDS[event.kind]}
    plain: dict[str, object] = {"event": event.kind, "at": round(at, 3), "run": run, **fields}
    _require(plain, event.kind)
    data = json.dumps(plain, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(data) > MAX_LINE:
        msg = f"the line of an event {event.kind} has {len(data)} bytes, at most {MAX_LINE} are read"
        raise ValueError(msg)
    return data


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Two names may be one when their secrets are hidden: then their numbers are added."""
    sums: dict[str, int] = {}
    for name, number in pairs:
        sums[name] = sums.get(name, 0) + number
    return sums


def _require(plain: Mapping[str, object], kind: str) -> None:
    """Raise `ValueError` unless *plain* has all that an event *kind* must have, of the right types."""
    expected = {**_ENVELOPE, **_FIELDS[kind]}
    missing = (_REQUIRED[kind] | _ENVELOPE.keys()) - plain.keys()
    if missing:
        msg = f"{kind} without {', '.join(sorted(missing))}"
        raise ValueError(msg)
    for name, value in plain.items():
        if name in expected and not _EXPECTED[expected[name]][0](value):
            msg = f"{kind}.{name}: expected {_EXPECTED[expected[name]][1]}, got {value!r:.80}"
            raise ValueError(msg)


def is_begun(head: bytes) -> bool:
    """Whether *head*, the first `HEAD` bytes of a file, may be those of a report: zeros and torn lines are."""
    found = head.lstrip(b"\0\r\n ")
    return found.startswith(_BEGIN) or _BEGIN.startswith(found)


def read(path: Path) -> Iterator[Recorded | Skipped]:
    """
    The lines of the report *path* in their order, one at a time: a report may be larger than memory.

    What a later version added, and lines that a killed process or a full disk left unfinished, come as `Skipped`. Raises
    `ConfigError` for a file that cannot be read, is no report, or is one of another format.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                # A crash of the machine may leave zeros behind.
                text = line.strip(b"\0\r\n ")
                if text:
                    yield _line(text, f"{path}:{number}")
    except OSError as error:
        msg = f"cannot read the report {path}: {error.strerror}"
        raise ConfigError(msg, hint="name the file that a run with --report has written") from error


def _line(text: bytes, where: str) -> Recorded | Skipped:
    try:
        if len(text) > MAX_LINE:
            msg = f"a line of more than {MAX_LINE} bytes"
            raise ValueError(msg)  # noqa: TRY301  # one message for all that no report has
        return _understood(parse_json(text, "the line"), where)
    except ManifestInvalid as error:
        if text.startswith(_BEGIN) or _BEGIN.startswith(text):
            return Skipped(where)
        raise _refused(where, error.message) from error
    except ValueError as error:
        raise _refused(where, str(error)) from error


def _refused(where: str, why: str) -> ConfigError:
    return ConfigError(
        f"{where} is no line of a report: {why:.300}", hint="a report is what a run with --report writes"
    )


def _understood(plain: object, where: str) -> Recorded | Skipped:
    kind = plain.get("event") if isinstance(plain, dict) else None
    if not isinstance(plain, dict) or not isinstance(kind, str):
        msg = 'expected an object with an "event"'
        raise ValueError(msg)  # noqa: TRY004  # as all that is wrong with a line
    if kind == RunStarted.kind and plain.get("format") != FORMAT:
        msg = f"{where}: this report has format {plain.get('format')!r:.20}, and this version reads format {FORMAT}"
        raise ConfigError(msg, hint="another version wrote it: read it with that one")
    if kind not in _KINDS:
        return Skipped(where, kind)
    _require(plain, kind)
    fields = {name: plain[name] for name in _FIELDS[kind] if name in plain}
    unknown = plain.keys() - _FIELDS[kind].keys() - _ENVELOPE.keys() - {"event"}
    return Recorded(
        at=float(plain["at"]),
        run=plain["run"],
        event=_KINDS[kind](**fields),
        unknown=tuple(f"{kind}.{name}" for name in sorted(unknown)),
    )
