"""The only module that sets up logging: to stderr, redacted, one line as a CI log reads it."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from ci_modelcache.model.redact import RedactingFilter

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = "ci_modelcache"
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class _Stderr(logging.StreamHandler[TextIO]):
    """Looks stderr up at every record: while a bar is shown, it is rich's, which writes above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute there, which nobody here sets
        return sys.stderr


class _Lowercase(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the library's name
        record.levelname = record.levelname.lower()
        return super().formatMessage(record)


@contextmanager
def logging_to_stderr(verbosity: int) -> Iterator[logging.Handler]:
    """
    Log as ``12:01:07 warning: ...`` until the block ends; *verbosity* -1 is errors only, 0 warnings, 1 information, 2 all.

    Of libraries no more than warnings is shown, ever: botocore at DEBUG writes session tokens.
    """
    handler = _Stderr()
    handler.setFormatter(_Lowercase("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S"))
    handler.addFilter(RedactingFilter())
    level = _LEVELS[max(-1, min(verbosity, 2))]
    root, ours = logging.getLogger(), logging.getLogger(OURS)
    before = root.level, ours.level
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    ours.setLevel(level)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        ours.setLevel(before[1])
