"""
The only module that remembers for a minute what a source does not have, so that a matrix of jobs, or a loop that tries again, asks for it once.

Each is a small file in a folder of this user's state, which may be lost at any moment, and is never worth a failure.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from ci_modelcache.errors import FileNotFound, NoSpace, NotFound, RepositoryNotFound, RevisionNotFound
from ci_modelcache.transfer.land import replacing

_log = logging.getLogger(__name__)

LASTING = 60.0
"""Seconds: less than it takes to start a job anew, and more than the jobs of one matrix take to start."""

_KINDS = {kind.__name__: kind for kind in (FileNotFound, RepositoryNotFound, RevisionNotFound)}


@frozen
class Refusals:
    """
    What was refused in the last `LASTING` seconds, in *folder*; *clock* gives seconds since the epoch.

    *believe*: whether it counts; without, everything is asked again, and what is there after all is forgotten. A question is any text;
    it is kept as a hash only, for it may hold a token.
    """

    folder: Path
    clock: Callable[[], float] = time.time
    believe: bool = True

    def recall(self, question: str) -> None:
        """Raise what was the answer to *question*, when it was a refusal that still counts, with its age."""
        path = self._path(question)
        if not self.believe:
            return
        try:
            kept = json.loads(path.read_bytes())
            age = self._age(path)
            kind, message, hint = _KINDS[kept["kind"]], str(kept["message"]), str(kept["hint"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            _log.debug("a remembered refusal cannot be read: %s", error)
            return
        if 0 <= age < LASTING:
            again = f"it is asked again in {LASTING - age:.0f} s, or at once with --force-download"
            msg = f"{message} (remembered from {age:.0f} s ago)"
            raise kind(msg, hint=f"{hint}; {again}" if hint else again)

    def keep(self, question: str, error: NotFound) -> None:
        """Remember that *error* was the answer to *question*, if it is `NotFound.definite`."""
        if not error.definite or type(error).__name__ not in _KINDS:
            return
        kept = {"kind": type(error).__name__, "message": error.message, "hint": error.hint or ""}
        path, now = self._path(question), self.clock()
        try:
            self._sweep()
            with replacing(path, mode=0o600) as file:
                file.write(json.dumps(kept).encode())
            os.utime(path, (now, now))
        except (OSError, NoSpace) as obstacle:
            _log.debug("a refusal cannot be remembered: %s", obstacle)

    def forget(self, question: str) -> None:
        """*question* has another answer now."""
        try:
            self._path(question).unlink(missing_ok=True)
        except OSError as obstacle:
            _log.debug("a refusal cannot be forgotten: %s", obstacle)

    def _age(self, path: Path) -> float:
        return self.clock() - path.stat().st_mtime

    def _path(self, question: str) -> Path:
        return self.folder / f"{hashlib.sha256(question.encode(errors='surrogatepass')).hexdigest()}.json"

    def _sweep(self) -> None:
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            try:
                if abs(self._age(path)) >= LASTING:
                    path.unlink(missing_ok=True)
            except FileNotFoundError as gone:
                _log.debug("another process swept it: %s", gone)
