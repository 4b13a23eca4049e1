"""
The manifest: every file of a snapshot with the digests that prove it; a pure function of (repo, commit, selection).

Format 1, docs/format.md. Two writers of the same snapshot make identical bytes, so that a race between
them changes nothing; hence no times, versions or endpoints in here.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, frozen

from ci_modelcache.errors import ManifestInvalid, StoreUnsupported
from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected, is_git_oid, set_digest
from ci_modelcache.model.document import from_plain, parse_json, simple_json
from ci_modelcache.model.path import check_paths
from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.model.selection import Selection

T = TypeVar("T")

FORMAT = 1
FEATURES: frozenset[str] = frozenset()
"""The required features that this version can read."""
MAX_FILES = 100_000
"""Files of the largest snapshot: what still can be read in a few seconds, and below `MAX_DOCUMENT`."""
MAX_SIZE = 1 << 50
"""Bytes of the largest file believed: a petabyte, so that sums stay exact in every JSON reader."""
_HOST = re.compile(r"[\w.:\[\]-]{1,255}")
_SELECTION = re.compile(r"all|[0-9a-f]{16}")


@frozen
class FileEntry:
    """
    One file. *sha256* proves it.

    *git_oid* is the name that git (and so the Hub's ETag) gives it: of the content, or for an *lfs* file of its pointer.
    *leaves* names the leaf list of a file larger than `LEAF_SIZE`, and is None for the others.
    """

    path: str
    size: int
    sha256: Digest
    git_oid: str
    lfs: bool
    executable: bool
    leaves: Digest | None = None

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            msg = f"{self.path!r}: impossible size {self.size}"
            raise ManifestInvalid(msg)
        if not is_git_oid(self.git_oid):
            msg = f"{self.path!r}: git_oid is no git object name: {self.git_oid!r:.100}"
            raise ManifestInvalid(msg)
        if (self.leaves is not None) != (self.size > LEAF_SIZE):
            msg = f"{self.path!r}: a leaf list goes with files over {LEAF_SIZE} bytes and no others"
            raise ManifestInvalid(msg)

    @property
    def expected(self) -> Expected:
        """What the bytes must prove."""
        return Expected(self.size, sha256=self.sha256)

    @property
    def etag(self) -> str:
        """The Hub's ETag, which `huggingface_hub` takes as the name of the blob in its cache."""
        return self.sha256.hex if self.lfs else self.git_oid


def _by_path(files: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
    return tuple(sorted(files, key=lambda file: file.path.encode(errors="surrogatepass")))


@frozen
class Manifest:
    """A complete snapshot; *files* are ordered by the bytes of their paths, and checked on construction."""

    host: str
    type: RepoType
    repo: str
    commit: str
    selection: str
    files: tuple[FileEntry, ...] = field(converter=_by_path)
    format: int = FORMAT
    required_features: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        _refuse_others(self.format, self.required_features)
        ModelRef(self.repo, self.commit, self.type)
        for what, text, form in (("host", self.host, _HOST), ("selection", self.selection, _SELECTION)):
            if form.fullmatch(text) is None:
                msg = f"the manifest's {what} is malformed: {text!r:.300}"
                raise ManifestInvalid(msg)
        if not is_git_oid(self.commit):
            msg = f"the manifest's commit is no git object name: {self.commit!r:.100}"
            raise ManifestInvalid(msg)
        if len(self.files) > MAX_FILES:
            msg = f"a manifest of {len(self.files)} files; at most {MAX_FILES} are read"
            raise ManifestInvalid(msg)
        check_paths(file.path for file in self.files)

    @property
    def id(self) -> SnapshotId:
        """What this is a manifest of."""
        return SnapshotId(self.host, self.type, self.repo, self.commit, self.selection)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @cached_property
    def set_digest(self) -> Digest:
        """The digest of the content alone: the ``digest`` output, good as a build argument or cache key."""
        return set_digest((file.path, file.sha256) for file in self.files)

    def part(self, selection: Selection) -> Manifest:
        """The manifest of the files that *selection* selects of this full snapshot, as fetching them alone would make it."""
        chosen = (file for file in self.files if selection.selects(file.path))
        return Manifest(self.host, self.type, self.repo, self.commit, selection.id, tuple(chosen))

    def to_json(self) -> bytes:
        """The canonical bytes; their SHA-256 is the manifest's name."""
        return self._json

    @cached_property
    def _json(self) -> bytes:
        # Spelled out, here and in `_read`: every start of a restore passes here, and the library that does this of itself takes 30 ms.
        plain = {
            "commit": self.commit,
            "files": [_plain(file) for file in self.files],
            "format": self.format,
            "host": self.host,
            "repo": self.repo,
            "required_features": self.required_features,
            "selection": self.selection,
            "type": self.type,
        }
        return simple_json(plain, "Manifest")  # `MAX_SIZE` is below 2^53

    @cached_property
    def digest(self) -> Digest:
        """The manifest's name."""
        return Digest.of(self.to_json())

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """
        Read a manifest whose digest was checked already.

        Raises `StoreUnsupported` for a format or required feature of a later version, `ManifestInvalid` or
        `UnsafePath` for one that breaks the format; a manifest not in canonical form breaks it.
        """
        plain = parse_json(data, "the manifest")
        if isinstance(plain, dict):
            # Before the fields are looked at: those of a later format are none of ours.
            _refuse_others(plain.get("format"), plain.get("required_features"))
        try:
            manifest = _read(plain)
        except Exception:  # noqa: BLE001  # whatever it is: asked again, in detail
            manifest = from_plain(plain, cls, "the manifest")
        if manifest.to_json() != data:
            from_plain(plain, cls, "the manifest")  # an unknown field is said to be one
            msg = "the manifest is not in canonical form (RFC 8785, files ordered by path)"
            raise ManifestInvalid(msg)
        return manifest


def _plain(file: FileEntry) -> dict[str, object]:
    return {
        "executable": file.executable,
        "git_oid": file.git_oid,
        "leaves": None if file.leaves is None else file.leaves.hex,
        "lfs": file.lfs,
        "path": file.path,
        "sha256": file.sha256.hex,
        "size": file.size,
    }


def _read(plain: dict[str, Any]) -> Manifest:
    """*plain* as a manifest; raises anything for one that is not just as `Manifest.to_json` writes it."""
    return Manifest(
        _exact(plain["host"], str),
        RepoType(plain["type"]),
        _exact(plain["repo"], str),
        _exact(plain["commit"], str),
        _exact(plain["selection"], str),
        tuple(map(_entry, plain["files"])),
        _exact(plain["format"], int),
        tuple(_exact(feature, str) for feature in _exact(plain["required_features"], list)),
    )


def _entry(plain: dict[str, Any]) -> FileEntry:
    leaves = plain["leaves"]
    return FileEntry(
        _exact(plain["path"], str),
        _exact(plain["size"], int),
        Digest(plain["sha256"]),
        plain["git_oid"],
        _exact(plain["lfs"], bool),
        _exact(plain["executable"], bool),
        None if leaves is None else Digest(leaves),
    )


def _exact(value: Any, kind: type[T]) -> T:  # noqa: ANN401  # what JSON has
    if type(value) is not kind:
        msg = f"expected {kind}, got {type(value)}"
        raise TypeError(msg)
    return value


def _refuse_others(found: object, features: object) -> None:
    """Raise `StoreUnsupported` for another format; what is no number and no list of texts is left to `from_plain`."""
    hint = "upgrade ci-modelcache"
    if type(found) is int and found != FORMAT:
        msg = f"the manifest has format {found}; this version reads format {FORMAT}"
        raise StoreUnsupported(msg, hint=hint)
    texts = features if isinstance(features, (list, tuple)) else ()
    unknown = sorted({text for text in texts if isinstance(text, str)} - FEATURES)
    if unknown:
        msg = f"the manifest needs features that this version lacks: {', '.join(unknown):.300}"
        raise StoreUnsupported(msg, hint=hint)
