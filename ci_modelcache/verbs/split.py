"""The only module that puts together again what was cut into parts: where they lie beside each other, or one medium after the other."""

from __future__ import annotations

import logging
import re
import shutil
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import ConfigError, DigestMismatch, IntegrityError, NotFound
from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.transfer.disk import require_space
from ci_modelcache.transfer.inlet import FileInlet, PartsInlet
from ci_modelcache.transfer.land import land, sweep
from ci_modelcache.transfer.parts import MOST, part_name, sums_name
from ci_modelcache.transfer.streams import read_through

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.transfer.inlet import Inlet
    from ci_modelcache.verbs.step import Step

    Look = Callable[[str], Inlet]
    """What has a name; raises `NotFound`."""

_log = logging.getLogger(__name__)

_PART = re.compile(r"(.+)\.[0-9]{3}")
_SUM = re.compile(r"([0-9a-f]{64})  ([^/\n]+)")
_MAX_SUMS = 1 << 20
"""Bytes of the sums of a thousand parts, and some."""
_FOLDER = "imports"
"""Below the state folder."""


@frozen
class _Sums:
    """What the sums of a split archive say: its own, and those of its parts in their order."""

    whole: Digest
    parts: tuple[Digest, ...]


@frozen
class StagedReport:
    """What `import --part` did with one part when others are still missing. This is API: fields are added, never changed."""

    path: str
    """The part."""
    part: int
    """Its number."""
    parts: int
    """How many there are."""
    size: int
    """Bytes of the part."""
    missing: tuple[int, ...]
    """The parts that are not here yet."""


def whole_of(name: str) -> str | None:
    """The archive of which *name* is a part, or the sums; None when it is neither by its name."""
    if name.endswith(sums_name("")):
        return name.removesuffix(sums_name(""))
    part = _PART.fullmatch(name)
    return None if part is None else part[1]


def joined(name: str, look: Look, *, step: Step) -> Inlet:
    """
    The archive *name*: that itself, or all parts of it, or of the archive of which it is a part or the sums.

    Raises `NotFound` when it, or a part of it, is not there, and `IntegrityError` for sums that are none.
    """
    whole = whole_of(name)
    if whole is None:
        try:
            return look(name)
        except NotFound as miss:
            try:
                look(part_name(name, 0))
            except NotFound:
                raise miss from None
            whole = name
    try:
        count = len(_sums(whole, look, step=step).parts)
    except NotFound as miss:
        _log.info("%s; taking the parts that are there", miss)
        return PartsInlet(whole, tuple(_there(whole, look)))
    return PartsInlet(whole, tuple(look(part_name(whole, number)) for number in range(count)))


def staged(name: str, number: int, look: Look, *, step: Step) -> PartsInlet | StagedReport:
    """
    Keep part *number* of the archive *name* in the state folder, proven by the sums beside it; all parts once they are there.

    Raises `NotFound` for a part or sums that are not there, `DigestMismatch`, and `NoSpace`.
    """
    whole = whole_of(name) or name
    sums = _sums(whole, look, step=step)
    if number >= len(sums.parts):
        msg = f"{whole} has no part {number}: it has {len(sums.parts)}, the first of which is 0"
        raise ConfigError(msg, hint="give the number that its name ends in")
    part = look(part_name(whole, number))
    folder = step.state / _FOLDER / sums.whole.hex
    if not (folder / f"{number:03}").exists():
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        require_space(folder, part.size)
        _land(part, folder / f"{number:03}", sums.parts[number], step)
    files = [folder / f"{each:03}" for each in range(len(sums.parts))]
    missing = tuple(each for each, file in enumerate(files) if not file.exists())
    if missing:
        return StagedReport(part.name, number, len(files), part.size, missing)
    return PartsInlet(whole, tuple(FileInlet(file, file.stat().st_size) for file in files))


def unstage(parts: PartsInlet) -> None:
    """Remove what `staged` kept, when it is imported."""
    for part in parts.parts:
        if isinstance(part, FileInlet):
            shutil.rmtree(part.path.parent, ignore_errors=True)
            return


def _land(part: Inlet, target: Path, digest: Digest, step: Step) -> None:
    step.progress.start(f"copying {part.name}", part.size)
    try:
        step.attempt(
            lambda count: land(
                count(read_through(part.open, part.size, step.retry, what=part.name)),
                target,
                Expected(part.size, sha256=digest),
                leaves=False,
            )
        )
    except DigestMismatch as error:
        error.hint = "copy that part again"
        raise
    finally:
        step.progress.finish()


def _there(whole: str, look: Look) -> list[Inlet]:
    found: list[Inlet] = []
    for number in range(MOST):
        try:
            found.append(look(part_name(whole, number)))
        except NotFound as miss:
            if not found:
                raise
            _log.debug("%s", miss)
            break
    return found


def _sums(whole: str, look: Look, *, step: Step) -> _Sums:
    inlet = look(sums_name(whole))
    if inlet.size > _MAX_SUMS:
        msg = f"{inlet.name} has {inlet.size} bytes, at most {_MAX_SUMS} are read"
        raise IntegrityError(msg, hint="those are not the sums of parts: copy them again")
    text = b"".join(read_through(inlet.open, inlet.size, step.retry, what=inlet.name)).decode(errors="replace")
    lines = [_SUM.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    last = whole.rpartition("/")[2]
    names = [*(part_name(last, number) for number in range(len(lines) - 1)), last]
    if [line and line[2] for line in lines] != names or len(lines) < 2:  # noqa: PLR2004  # a part, and the whole
        msg = f"{inlet.name} are not the sums of the parts of {last}, and of it"
        raise IntegrityError(msg, hint="copy them again")
    *parts, own = (Digest(line[1]) for line in lines if line is not None)
    return _Sums(own, tuple(parts))
