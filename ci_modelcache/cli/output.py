"""The only module that writes results to stdout: one object or one line at a time, or an archive and nothing else."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from ci_modelcache.errors import ConfigError, ModelCacheError, NoSpace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.transfer.outlet import Take

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _write(text: str, out: TextIO) -> None:
    try:
        out.write(text)
    except UnicodeEncodeError:
        # The name of a file need not be text, nor what a server says; JSON spells halves of characters in the same way.
        out.write(text.encode(out.encoding, "backslashreplace").decode(out.encoding))


def emit(text: str) -> None:
    """
    Print *text* and a line break on stdout at once; a reader who has gone away (``| head``) is no error.

    Raises `NoSpace` when stdout is a file on a full disk. Only here a broken pipe means that: anywhere else it would be a connection that nobody handled.
    """
    if sys.stdout is None:  # closed before we began (``>&-``): whoever did that wants no result
        return
    try:
        _write(f"{text}\n", sys.stdout)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered would fail again when Python exits, and be complained about there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return
        msg = f"the work is done, and its result cannot be written to stdout: {error.strerror}"
        if error.errno in _FULL:
            raise NoSpace(msg, hint="free space where stdout goes, and run again") from error
        raise ModelCacheError(msg, hint="check where stdout goes") from error


class Stdout:
    """Stdout as a `transfer.outlet.Outlet` for *what*: all that it took before a failure stays there, and is no whole one."""

    name = "-"

    def __init__(self, what: str = "archive") -> None:
        self._what = what

    @contextmanager
    def open(self, size: int) -> Iterator[Take]:
        """The function that takes the bytes. Raises `ConfigError` for a terminal, `NoSpace` for a file on a full disk."""
        if sys.stdout is None or sys.stdout.isatty():
            where = "is closed" if sys.stdout is None else "is a terminal"
            msg = f"the {self._what} was to go to stdout, which {where}"
            raise ConfigError(msg, hint="name a file: -o FILE; or send stdout to a file or a pipe")
        descriptor, done = sys.stdout.fileno(), 0

        def take(data: bytes) -> None:
            nonlocal done
            rest = memoryview(data)
            while rest:
                written = os.write(descriptor, rest)
                done, rest = done + written, rest[written:]

        try:
            yield take
        except OSError as error:
            msg = f"stdout took {done} of the {self._what}'s {size} bytes: {error.strerror}"
            if error.errno in _FULL:
                raise NoSpace(msg, hint="free space where stdout goes, and run again") from error
            raise ModelCacheError(msg, hint="whoever was to read it has ended; look at what it said") from error
        except ModelCacheError as error:
            error.add_note(
                f"the {self._what} on stdout is cut off: it has {done} of {size} bytes, and is good for nothing"
            )
            raise
