"""The only list of the forms in which a store may keep the bytes of a blob."""

from __future__ import annotations

from enum import StrEnum


class Encoding(StrEnum):
    """How a blob lies in a store; its name is always the digest of its raw bytes."""

    RAW = "raw"
    """As it is."""
    BYTEGROUP_ZSTD = "bytegroup-zstd"
    """In frames of 1 MiB, whose bytes are grouped by their place in a number and packed with zstd (docs/encoding.md)."""
