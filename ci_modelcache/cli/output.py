"""The only module that writes results: one object or one line at a time, to stdout."""

from __future__ import annotations

import os
import sys


def emit(text: str) -> None:
    """
    Print *text* and a line break on stdout at once; a reader who has gone away (``| head``) is no error.

    Only here a broken pipe means that: anywhere else it would be a connection that nobody handled.
    """
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would fail again when Python exits, and be complained about there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
