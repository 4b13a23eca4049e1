"""The only module that says what archives of models have in common, in whichever format: their members, and what a delta leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.model.digest import Digest
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.tar import Member

if TYPE_CHECKING:
    from collections.abc import Iterable


@frozen
class Entry:
    """One member: its *content* is a document that is here already, or a file whose bytes are elsewhere."""

    member: Member
    content: bytes | FileEntry

    @property
    def sha256(self) -> Digest:
        return self.content.sha256 if isinstance(self.content, FileEntry) else Digest.of(self.content)


@frozen
class Packed:
    """A snapshot to pack: its manifest, and the branches and tags under which it was asked for."""

    manifest: Manifest
    revisions: frozenset[str] = frozenset()


def of_document(path: str, content: bytes) -> Entry:
    """The member at *path* that holds *content*."""
    return Entry(Member(path, len(content)), content)


def since_of(digests: Iterable[Digest]) -> Digest:
    r"""What a delta is recognised by: SHA-256 over ``"<sha256>\n"`` of each blob that it leaves out, lines sorted bytewise."""
    return Digest.of("".join(f"{digest}\n" for digest in sorted(set(digests))).encode())
