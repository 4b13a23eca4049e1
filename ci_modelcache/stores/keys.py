"""
The only module that says what a key is, and that counts the bytes of a body on their way into a store.

A key that breaks the rules is a mistake in this program, never an input: it raises `ValueError`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ci_modelcache.errors import SizeMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_KEY = 512
"""Bytes of a whole key, with the prefix of the store left out: half of what S3 allows."""
MAX_SEGMENT = 255
"""Bytes between two slashes: what a file name may have, since every key must fit a directory store too."""
PIECE = 1024 * 1024
"""Bytes of the pieces that reading yields."""
STAGING = ".staging"
"""The folder in which a directory store stages; no key may lie in it, in any store, so that all can hold the same."""

_TEXT = re.compile(r"[A-Za-z0-9._/-]*")


def is_key(text: str) -> bool:
    """Whether *text* may name an object."""
    segments = text.split("/")
    return (
        len(text) <= MAX_KEY
        and _TEXT.fullmatch(text) is not None
        and all(segment not in {"", ".", ".."} and len(segment) <= MAX_SEGMENT for segment in segments)
        and segments[0] != STAGING
    )


def check_key(text: str) -> str:
    """Return *text* unchanged; raise `ValueError` unless it may name an object."""
    if not is_key(text):
        msg = f"not a key: {text!r:.600}"
        raise ValueError(msg)
    return text


def check_prefix(text: str) -> str:
    """Return *text* unchanged; raise `ValueError` unless some key may start with it."""
    if not is_key(f"{text}x"):
        msg = f"no key starts with {text!r:.600}"
        raise ValueError(msg)
    return text


def check_range(start: int, stop: int | None) -> None:
    """Raise `ValueError` unless bytes *start* to *stop* (exclusive; None: the end) can be a range."""
    if start < 0 or (stop is not None and stop < start):
        msg = f"not a range of bytes: {start} to {stop}"
        raise ValueError(msg)


def exactly(chunks: Iterable[bytes], size: int, what: str) -> Iterator[bytes]:
    """
    Pass *chunks* on, and raise `SizeMismatch` about *what* instead of ending when they are not *size* bytes.

    Whoever publishes only after this iterator has ended publishes nothing that is too short or too long.
    """
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            raise SizeMismatch(what, expected=size, actual=seen)
        yield chunk
    if seen != size:
        raise SizeMismatch(what, expected=size, actual=seen)
