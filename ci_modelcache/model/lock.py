"""
The lock: what `ci-modelcache lock` promises and `restore --locked` accepts, as a TOML file kept in git.

Each model carries everything of its manifest, so that a lock alone can prove any byte, from whatever
source, with no Hub and no store metadata. Format: docs/format.md.
"""

from __future__ import annotations

from attrs import field, frozen

from ci_modelcache.errors import ManifestInvalid, NotInLock, StoreUnsupported
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import from_plain, parse_toml, to_toml
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.model.selection import Selection

VERSION = 1
HEADER = """\
Written by `ci-modelcache lock`; commit it. Do not edit: change modelcache.toml and run
`ci-modelcache lock`, or `ci-modelcache lock --upgrade` to move branches forward."""


@frozen
class LockedModel:
    """One model: the *revision* as asked for, the *commit* that it meant, and the manifest's content."""

    repo: str
    type: RepoType
    revision: str
    host: str
    commit: str
    selection: str
    manifest: Digest
    digest: Digest
    size: int
    files: tuple[FileEntry, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        content = self.to_manifest()
        for what, promised, actual in (
            ("manifest", self.manifest, content.digest),
            ("digest", self.digest, content.set_digest),
            ("size", self.size, content.size),
            ("selection", self.selection, Selection(self.include, self.exclude).id),
        ):
            if promised != actual:
                msg = f"lock of {self.repo}: {what} says {promised}, the files listed give {actual}"
                raise ManifestInvalid(msg, hint="run ci-modelcache lock again, or restore the file from git")

    @classmethod
    def of(cls, manifest: Manifest, *, revision: str, selection: Selection) -> LockedModel:
        """The lock of *manifest*, which *revision* and *selection* led to."""
        return cls(
            repo=manifest.repo,
            type=manifest.type,
            revision=revision,
            host=manifest.host,
            commit=manifest.commit,
            selection=manifest.selection,
            manifest=manifest.digest,
            digest=manifest.set_digest,
            size=manifest.size,
            files=manifest.files,
            include=selection.include,
            exclude=selection.exclude,
        )

    def to_manifest(self) -> Manifest:
        """The manifest, rebuilt byte for byte."""
        return Manifest(self.host, self.type, self.repo, self.commit, self.selection, self.files)

    @property
    def asked(self) -> Selection:
        """The patterns that the model was locked with."""
        return Selection(self.include, self.exclude)


@frozen
class Lock:
    """All locked models, in the order of modelcache.toml."""

    models: tuple[LockedModel, ...] = field(factory=tuple)
    version: int = VERSION

    def __attrs_post_init__(self) -> None:
        if self.version != VERSION:
            msg = f"lock version {self.version}; this version reads {VERSION}"
            raise StoreUnsupported(msg, hint="run ci-modelcache lock")
        seen: set[tuple[str, RepoType, str, str]] = set()
        for model in self.models:
            key = (model.repo, model.type, model.revision, model.selection)
            if key in seen:
                # What a merge in git leaves behind; which of the two was meant, nobody knows.
                msg = f"the lock has {model.repo}@{model.revision} twice"
                raise ManifestInvalid(msg, hint="name it once in modelcache.toml, and run ci-modelcache lock again")
            seen.add(key)

    def find(self, ref: ModelRef, selection: Selection) -> LockedModel:
        """The model that *ref* (its revision as asked for, or its commit) and *selection* name; raises `NotInLock`."""
        return self.named(ref, ref.revision, selection)

    def named(self, ref: ModelRef, revision: str, selection: Selection) -> LockedModel:
        """As `find`, for a *revision* that may also be a range such as ``^1.2``, which no `ModelRef` has."""
        for model in self.models:
            if (model.repo, model.type, model.selection) == (ref.repo, ref.type, selection.id) and (
                revision in {model.revision, model.commit}
            ):
                return model
        kind = "" if ref.type is RepoType.MODEL else f"{ref.type}:"
        asked = f"{kind}{ref.repo}@{revision}"
        msg = f"{asked} is not in the lock"
        if not any(model.repo == ref.repo for model in self.models):
            raise NotInLock(msg, hint="add it to modelcache.toml and run ci-modelcache lock")
        known = ", ".join(f"{m.repo}@{m.revision}" for m in self.models if m.repo == ref.repo)
        raise NotInLock(msg, hint=f"the lock has {known}; ask for that revision and the same patterns")

    def to_toml(self) -> str:
        """The file's text; the same lock always gives the same text."""
        return to_toml(self, header=HEADER)

    @classmethod
    def from_toml(cls, text: str, *, where: str) -> Lock:
        """Read the text of the lock file at *where*; raises `ManifestInvalid`, `UnsafePath`, `StoreUnsupported`."""
        plain = parse_toml(text, where)
        version = plain.get("version")
        if type(version) is int and version > VERSION:
            msg = f"{where} has version {version}; this version reads {VERSION}"
            raise StoreUnsupported(msg, hint="upgrade ci-modelcache")
        return from_plain(plain, cls, where)
