"""The only module that makes names which sort by time and never come twice."""

from __future__ import annotations

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_ulid(seconds: float, randomness: bytes) -> str:
    """A ULID: 48 bits of milliseconds since the epoch, 80 bits of *randomness*, 26 characters that sort by time."""
    value = int(seconds * 1000) << 80 | int.from_bytes(randomness[:10])
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -5, -5))
