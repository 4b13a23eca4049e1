"""The only module that notes what a process has begun elsewhere, so that the next one on this machine goes on there after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci_modelcache.transfer.holding import acquired

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)

_MOST = 1 << 20
"""Bytes of a note that is ours."""


class Note:
    """Words by name, as the process before this one left them; for one process at a time, and only one that stands at *descriptor*."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._words = {} if descriptor is None else _read(descriptor)

    @property
    def lasts(self) -> bool:
        """Whether the next process finds what is noted."""
        return self._descriptor is not None and bool(self._words)

    def get(self, name: str) -> str | None:
        """What was noted of *name*."""
        return self._words.get(name)

    def put(self, name: str, word: str) -> None:
        """Note *word* of *name*."""
        self._words[name] = word
        if self._descriptor is not None:
            try:
                self._write(self._descriptor)
            except OSError as error:
                _log.warning("what is begun will not be found again after a kill: %s", error)
                self._descriptor = None

    def _write(self, descriptor: int) -> None:
        data = json.dumps({"file": _identity(descriptor), "words": self._words}).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)


@contextmanager
def noted(name: str, *, folder: Path, keep: type[BaseException] | tuple[type[BaseException], ...]) -> Iterator[Note]:
    """
    The note about *name* (any text), whose file lies in *folder*; nobody else has it.

    It stays when the block is broken off by *keep* or a kill, and is removed otherwise. While another process has it, and where no file can
    be made, the block gets an empty one that nobody finds again.
    """
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.note"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, path, shared = acquired(path)
    except OSError as error:
        _log.warning("what is begun will not be found again after a kill: %s", error)
        yield Note(None)
        return
    note, kept = Note(descriptor if shared else None), False
    try:
        yield note
    except keep:
        kept = note.lasts
        raise
    finally:
        if not kept:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _read(descriptor: int) -> dict[str, str]:
    """What is noted there; nothing in a copy of the file: somebody else may have the original, and be at work."""
    try:
        found = json.loads(os.pread(descriptor, _MOST, 0) or b"{}")
        if found.get("file") == _identity(descriptor):
            return {str(name): str(word) for name, word in found["words"].items()}
    except (ValueError, AttributeError, KeyError) as error:
        _log.debug("a note that cannot be read: %s", error)
    return {}


def _identity(descriptor: int) -> str:
    seen = os.fstat(descriptor)
    return f"{seen.st_dev}-{seen.st_ino}"
