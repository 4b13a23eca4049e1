"""
The only module that knows what is in a plain archive, and under which names (docs/export.md).

It is for people without this tool: ``tar xf`` and ``sha256sum -c SHA256SUMS`` are all that is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from attrs import frozen

from ci_modelcache.errors import SnapshotConflict
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.model.selection import ALL
from ci_modelcache.model.tar import Member

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.model.manifest import Manifest

SUMS = "SHA256SUMS"
_NO_ORG = "-"  # repository names never begin with a dash, so this is nobody's organisation


@frozen
class Entry:
    """One member: its *content* is a document that is here already, or a file whose bytes are elsewhere."""

    member: Member
    content: bytes | FileEntry

    @property
    def sha256(self) -> Digest:
        return self.content.sha256 if isinstance(self.content, FileEntry) else Digest.of(self.content)


def plain_archive(manifests: Iterable[Manifest]) -> tuple[Entry, ...]:
    """
    The members of the archive of *manifests*, in their order: the sums, then all others by the bytes of their paths.

    A pure function of which manifests these are. Two parts of one commit share its folder; raises `SnapshotConflict`
    when they do not agree about a file.
    """
    entries: dict[str, Entry] = {}
    for manifest in manifests:
        folder = _folder(manifest)
        part = "" if manifest.selection == ALL else f".{manifest.selection}"
        _add(entries, f"{folder}{part}.json", manifest.to_json())
        for file in manifest.files:
            _add(entries, f"{folder}/{file.path}", file)
    ordered = sorted(entries.values(), key=lambda entry: entry.member.path.encode())
    sums = "".join(f"{entry.sha256}  {entry.member.path}\n" for entry in ordered).encode()
    return (Entry(Member(SUMS, len(sums)), sums), *ordered)


def _folder(manifest: Manifest) -> str:
    """``<host>/<type>/<org>/<name>/<commit>``: as deep for every model, so that no file can meet another model's folder."""
    org, _, name = manifest.repo.rpartition("/")
    return f"{quote(manifest.host, safe='')}/{manifest.type.value}/{org or _NO_ORG}/{name}/{manifest.commit}"


def _add(entries: dict[str, Entry], path: str, content: bytes | FileEntry) -> None:
    if isinstance(content, FileEntry):
        entry = Entry(Member(path, content.size, executable=content.executable), content)
    else:
        entry = Entry(Member(path, len(content)), content)
    other = entries.setdefault(path, entry)
    if (other.member, other.sha256) != (entry.member, entry.sha256):
        msg = f"two manifests of one commit disagree about {path}: sha256 {other.sha256} and {entry.sha256}"
        raise SnapshotConflict(msg, hint="ci-modelcache verify finds out which of them is wrong")
