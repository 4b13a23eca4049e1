"""
The only module that knows what an archive is to consist of, and refuses any other.

The manifests in an archive say what else is in it. So the archive is made again from them, without its large
contents, and compared: nothing may be missing, and nothing be there besides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import IntegrityError, InvalidRef, ManifestInvalid
from ci_modelcache.model.archive import Packed, since_of
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.oci_archive import (
    BLOBS,
    INDEX,
    LAYOUT,
    LAYOUT_DOCUMENT,
    leaf_list_size,
    oci_archive,
    read_image,
    read_index,
)
from ci_modelcache.model.plain_archive import LEFT_OUT, SUMS, plain_archive
from ci_modelcache.verbs.unpacking import HINT, Content

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.model.archive import Entry
    from ci_modelcache.verbs.unpacking import Contents

OCI, PLAIN = "oci", "plain"
_MANIFEST = re.compile(r"[^/]+/[a-z]+/[^/]+/[^/]+/[0-9a-f]{40}(\.[0-9a-f]{16})?\.json")


@frozen
class Plan:
    """
    What an archive brings: *snapshots*, and the *files* of them all, each once.

    *contents* has those files that are in the archive, None for one that went into the store at once; *absent* are the others.
    *leaf_lists*, by their own digests, are what the archive says of large files: nobody has compared them with these.
    """

    format: str
    snapshots: tuple[Packed, ...]
    files: Mapping[Digest, FileEntry]
    contents: Mapping[Digest, Content | None]
    leaf_lists: Mapping[Digest, bytes] = field(factory=dict)

    @property
    def absent(self) -> frozenset[Digest]:
        """The files that a delta leaves out."""
        return frozenset(self.files.keys() - self.contents.keys())


def plan(contents: Contents) -> Plan:
    """What is to be done with *contents*; raises `IntegrityError` unless they are an archive as `export` makes it, all of it."""
    try:
        return _plan_oci(contents) if contents.is_oci else _plan_plain(contents)
    except InvalidRef as error:
        contents.refuse(error.message)
    except IntegrityError as error:
        error.add_note(f"that is in the archive {contents.what}")
        error.hint = error.hint or HINT
        raise


def _plan_oci(contents: Contents) -> Plan:
    if contents.document(LAYOUT) != LAYOUT_DOCUMENT:
        contents.refuse(f"{LAYOUT} does not say {LAYOUT_DOCUMENT.decode()}")
    index = read_index(contents.document(INDEX))
    packed: list[Packed] = []
    for one in index.snapshots:
        manifest = Manifest.from_json(contents.document(f"{BLOBS}{one.manifest}", one.manifest))
        if manifest.id != one.id:
            contents.refuse(f"{INDEX} names {one.id}, and leads to the manifest of {manifest.id}")
        read_image(contents.document(f"{BLOBS}{one.image}", one.image), one).check(manifest)
        packed.append(Packed(manifest, frozenset(one.revisions)))
    files = _files(packed)
    present = {digest: f"{BLOBS}{digest}" for digest in files if f"{BLOBS}{digest}" in contents.sizes}
    absent = files.keys() - present.keys()
    if index.since != (since_of(absent) if absent else None):
        contents.refuse(_lacking(absent, "and its index tells of no such delta"))
    leaf_lists = _leaf_lists(files.values(), contents)
    _require_exactly(oci_archive(packed, leaf_lists, without=frozenset(absent)), contents)
    found = {digest: contents.contents[path] for digest, path in present.items()}
    return Plan(OCI, tuple(packed), files, found, leaf_lists)


def _leaf_lists(files: Iterable[FileEntry], contents: Contents) -> dict[Digest, bytes]:
    found: dict[Digest, bytes] = {}
    for file in files:
        if file.leaves is not None and file.leaves not in found:
            path = f"{BLOBS}{file.leaves}"
            if contents.sizes.get(path) != leaf_list_size(file):
                contents.refuse(f"the leaf list {path} of {file.path} is missing, or no leaf list")
            found[file.leaves] = contents.document(path, file.leaves)
    return found


def _plan_plain(contents: Contents) -> Plan:
    if SUMS not in contents.sizes:
        contents.refuse(f"it does not begin with {LAYOUT}, and has no {SUMS}")
    sums = contents.sums()
    names = sorted(path for path in contents.sizes if _MANIFEST.fullmatch(path))
    if not names:
        contents.refuse("it has no manifest, and so no model")
    unnamed = next((path for path in names if path not in sums), None)
    if unnamed is not None:
        contents.refuse(f"{SUMS} does not name {unnamed}")
    packed = tuple(Packed(Manifest.from_json(contents.document(path, sums[path]))) for path in names)
    files = _files(packed)
    paths = {entry.member.path: entry.sha256 for entry in plain_archive(each.manifest for each in packed)}
    present = {digest: path for path, digest in paths.items() if digest in files and path in contents.sizes}
    absent = frozenset(files.keys() - present.keys())
    if absent and LEFT_OUT not in contents.sizes:
        contents.refuse(_lacking(absent, f"and {LEFT_OUT}, which would tell of a delta, is not in it"))
    _require_exactly(plain_archive((each.manifest for each in packed), without=absent), contents)
    return Plan(PLAIN, packed, files, {digest: contents.contents[path] for digest, path in present.items()})


def _files(packed: Iterable[Packed]) -> dict[Digest, FileEntry]:
    """Every file once; raises `ManifestInvalid` where two manifests tell two stories of one digest."""
    files: dict[Digest, FileEntry] = {}
    for each in packed:
        for file in each.manifest.files:
            other = files.setdefault(file.sha256, file)
            if (other.size, other.leaves) != (file.size, file.leaves):
                msg = f"{file.sha256} has {other.size} bytes as {other.path} and {file.size} as {file.path}, or two leaf lists"
                raise ManifestInvalid(msg)
    return files


def _require_exactly(entries: Iterable[Entry], contents: Contents) -> None:
    """Raise `IntegrityError` unless the members are *entries* and nothing else, of their sizes, and all documents the same."""
    expected = {entry.member.path: entry for entry in entries}
    for path in contents.sizes:
        if path not in expected:
            contents.refuse(f"{path!r:.300} belongs to no model in it")
    for path, entry in expected.items():
        if path not in contents.sizes:
            contents.refuse(f"{path} is not in it")
        if contents.sizes[path] != entry.member.size:
            contents.refuse(f"{path} has {contents.sizes[path]} bytes, expected {entry.member.size}")
        if isinstance(entry.content, bytes) and contents.document(path) != entry.content:
            contents.refuse(f"{path} is not what its manifests make of it")
    parents = {"."}.union(*(_parents(path) for path in expected))
    for folder in contents.folders - parents:
        contents.refuse(f"the folder {folder!r:.300} belongs to no model in it")


def _parents(path: str) -> set[str]:
    segments = path.split("/")
    return {"/".join(segments[:depth]) for depth in range(1, len(segments))}


def _lacking(absent: Iterable[Digest], so: str) -> str:
    return f"the blob {min(absent)} is not in it, {so}" if absent else "it calls itself a delta, and leaves nothing out"
