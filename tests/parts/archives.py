"""Archives of small snapshots, in memory: made by the project's own formats, and read from without a disk."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.model.archive import Packed
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.oci_archive import oci_archive
from ci_modelcache.model.plain_archive import plain_archive
from ci_modelcache.model.tar import header, padding, trailer
from tests.parts.cached import leaf_list
from tests.parts.snapshots import CONTENTS, manifest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ci_modelcache.model.archive import Entry
    from ci_modelcache.model.manifest import Manifest

LARGE = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * (LEAF_SIZE // 256) + b"tail"}
"""A snapshot with one file that has a leaf list."""


@frozen
class InMemory:
    """*data* as an archive with offsets; a `transfer.inlet.Inlet`."""

    data: bytes
    name: str = "x.tar"

    @property
    def size(self) -> int:
        return len(self.data)

    @contextmanager
    def open(self, start: int, /) -> Iterator[Iterator[bytes]]:
        yield _pieces(self.data[start:], 1 << 20)


@frozen
class Piped:
    """*data* as it comes through a pipe, *piece* bytes at a time; a `transfer.inlet.Pipe`."""

    data: bytes
    piece: int = 1000
    name: str = "-"

    def chunks(self) -> Iterator[bytes]:
        return _pieces(self.data, self.piece)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def tar_of(members: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The archive of *members*, each a header and a content."""
    body = b"".join(head + content + padding(len(content)) for head, content in members)
    return body + trailer(len(body))


def members_of(entries: Iterable[Entry], contents: Mapping[Digest, bytes]) -> list[tuple[bytes, bytes]]:
    """Header and content of *entries*; files are found in *contents*."""
    return [
        (header(entry.member), entry.content if isinstance(entry.content, bytes) else contents[entry.sha256])
        for entry in entries
    ]


def by_digest(*contents: Mapping[str, bytes]) -> dict[Digest, bytes]:
    return {Digest.of(data): data for each in contents for data in each.values()}


def oci_members(
    packed: Iterable[Packed], *contents: Mapping[str, bytes], without: frozenset[Digest] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """Of the OCI archive of *packed*, whose files are in *contents*."""
    named = by_digest(*contents)
    lists = (leaf_list(data) for data in named.values() if len(data) > LEAF_SIZE)
    return members_of(oci_archive(packed, {Digest.of(each): each for each in lists}, without=without), named)


def plain_members(
    manifests: Iterable[Manifest], *contents: Mapping[str, bytes], without: frozenset[Digest] = frozenset()
) -> list[tuple[bytes, bytes]]:
    return members_of(plain_archive(manifests, without=without), by_digest(*contents))


def oci_tar(contents: Mapping[str, bytes] = CONTENTS, *, revisions: Iterable[str] = ("main",)) -> bytes:
    """The OCI archive of one snapshot."""
    return tar_of(oci_members([Packed(manifest_of(contents), frozenset(revisions))], contents))


def plain_tar(contents: Mapping[str, bytes] = CONTENTS) -> bytes:
    """The plain archive of one snapshot."""
    return tar_of(plain_members([manifest_of(contents)], contents))
