"""The only module that writes results: one object or one line at a time, to stdout."""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

from ci_modelcache.errors import ModelCacheError, NoSpace


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
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise NoSpace(msg, hint="free space where stdout goes, and run again") from error
        raise ModelCacheError(msg, hint="check where stdout goes") from error
