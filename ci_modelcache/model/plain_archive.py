"""
The only module that knows what is in a plain archive, and under which names (docs/export.md).

It is for people without this tool: ``tar xf`` and ``sha256sum -c SHA256SUMS`` are all that is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from ci_modelcache.errors import SnapshotConflict
from ci_modelcache.model.archive import Entry, of_document
from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.model.selection import ALL
from ci_modelcache.model.tar import Member

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.manifest import Manifest

SUMS = "SHA256SUMS"
LEFT_OUT = "SHA256SUMS.since"
"""Of a delta: the files of its manifests that are not in it, as `SUMS` has the others."""
_NO_ORG = "-"  # repository names never begin with a dash, so this is nobody's organisation


def plain_archive(manifests: Iterable[Manifest], *, without: frozenset[Digest] = frozenset()) -> tuple[Entry, ...]:
    """
    The members of the archive of *manifests*, in their order: the sums, then all others by the bytes of their paths.

    A pure function of which manifests these are. Two parts of one commit share its folder; raises `SnapshotConflict`
    when they do not agree about a file. The files whose digests are in *without* are left out, and named in `LEFT_OUT`.
    """
    entries: dict[str, Entry] = {}
    for manifest in manifests:
        folder = _folder(manifest)
        part = "" if manifest.selection == ALL else f".{manifest.selection}"
        _add(entries, of_document(f"{folder}{part}.json", manifest.to_json()))
        for file in manifest.files:
            _add(entries, Entry(Member(f"{folder}/{file.path}", file.size, executable=file.executable), file))
    left_out = [each for each in entries.values() if isinstance(each.content, FileEntry) and each.sha256 in without]
    for each in left_out:
        del entries[each.member.path]
    if left_out:
        _add(entries, of_document(LEFT_OUT, _sums(left_out)))
    return of_document(SUMS, _sums(entries.values())), *_ordered(entries.values())


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.member.path.encode())


def _sums(entries: Iterable[Entry]) -> bytes:
    return "".join(f"{entry.sha256}  {entry.member.path}\n" for entry in _ordered(entries)).encode()


def _folder(manifest: Manifest) -> str:
    """``<host>/<type>/<org>/<name>/<commit>``: as deep for every model, so that no file can meet another model's folder."""
    org, _, name = manifest.repo.rpartition("/")
    host = quote(manifest.host, safe="")
    if host.startswith("."):  # or a folder would be hidden, or none
        host = f"%2E{host[1:]}"
    return f"{host}/{manifest.type.value}/{org or _NO_ORG}/{name}/{manifest.commit}"


def _add(entries: dict[str, Entry], entry: Entry) -> None:
    path = entry.member.path
    other = entries.setdefault(path, entry)
    if (other.member, other.sha256) != (entry.member, entry.sha256):
        msg = f"two manifests of one commit disagree about {path}: sha256 {other.sha256} and {entry.sha256}"
        raise SnapshotConflict(msg, hint="ci-modelcache verify finds out which of them is wrong")
