"""
The only module that reads the header of a safetensors file: where the tensors lie, and how many bytes their numbers have.

What it says is used to pack well, and for nothing else: whatever it says, the bytes stay the same.
"""

from __future__ import annotations

import itertools
import json
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = 8
"""Bytes before the header, which tell its length."""

_LENGTH = struct.Struct("<Q")
_LONGEST = 16 << 20
"""Bytes of the longest header that is read: that of a large model has one or two million."""
_ITEM_SIZES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
}
"""Bytes of a number by its type; what is not listed has one byte or less."""


class NotSafetensors(Exception):
    """Bytes that are no header of this format; never for a user."""


@frozen
class Span:
    """The bytes of a file from offset *start* to *stop* (exclusive) are numbers of *item* bytes each."""

    start: int
    stop: int
    item: int


def header_size(begin: bytes, size: int) -> int:
    """The bytes that the header of a file of *size* bytes takes, with its length; *begin* are its first `PREFIX` bytes and one. Raises `NotSafetensors`."""
    if len(begin) <= PREFIX or begin[PREFIX : PREFIX + 1] != b"{":
        raise NotSafetensors
    (length,) = _LENGTH.unpack_from(begin)
    if not 1 < length <= min(_LONGEST, size - PREFIX):
        raise NotSafetensors
    return PREFIX + int(length)


def spans_of(header: bytes, size: int) -> tuple[Span, ...]:
    """Where the tensors of a file of *size* bytes lie, in order; *header* with its length. Raises `NotSafetensors`."""
    try:
        tensors = json.loads(header[PREFIX:])
    except (ValueError, RecursionError) as error:
        raise NotSafetensors from error
    if not isinstance(tensors, dict):
        raise NotSafetensors
    found = sorted(_spans(tensors, len(header), size), key=lambda span: span.start)
    if any(one.stop > other.start for one, other in itertools.pairwise(found)):
        raise NotSafetensors
    return tuple(found)


def _spans(tensors: dict[str, Any], begin: int, size: int) -> Iterator[Span]:
    for name, tensor in tensors.items():
        if name == "__metadata__":
            continue
        match tensor:
            case {"dtype": str(dtype), "data_offsets": [int(start), int(stop)]} if 0 <= start <= stop <= size - begin:
                yield Span(begin + start, begin + stop, _ITEM_SIZES.get(dtype, 1))
            case _:
                raise NotSafetensors


class Items:
    """Of how many bytes the numbers are, by where they lie."""

    def __init__(self, spans: tuple[Span, ...]) -> None:
        self._spans = spans
        self._stops = [span.stop for span in spans]

    def between(self, start: int, stop: int) -> int:
        """The size of the numbers that most bytes from *start* to *stop* belong to, 1 where there are none."""
        weights: dict[int, int] = {}
        covered = 0
        for number in range(bisect_right(self._stops, start), len(self._spans)):
            span = self._spans[number]
            if span.start >= stop:
                break
            inside = min(span.stop, stop) - max(span.start, start)
            weights[span.item] = weights.get(span.item, 0) + inside
            covered += inside
        weights[1] = weights.get(1, 0) + (stop - start - covered)
        return max(weights, key=lambda item: (weights[item], item))
