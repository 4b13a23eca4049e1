"""The only module that knows how the models of an image lie in a build context: as the layouts put them, below a folder that is the image's root."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.docker.dockerfile import CONTEXT
from ci_modelcache.docker.labels import ImageLayout
from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.layouts.tidy import FOLDER_MODE
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import ALL
from ci_modelcache.model.tar import Kind, Member

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OTHERS = (".git", ".cache/huggingface")
"""What `PlainLayout.extra` does not tell of, and no image is to have."""


@frozen
class Tree:
    """Models below the folder *to* of an image whose root is the folder *root*; all is normalized to *mtime*, in seconds since the epoch."""

    root: Path
    to: str
    kind: ImageLayout
    mtime: int

    def layout(self, ref: ModelRef) -> PlainLayout | HubCacheLayout:
        """Where *ref* goes."""
        place = self.root / self.to.lstrip("/")
        if self.kind is ImageLayout.PLAIN:
            return PlainLayout(place.joinpath(*ref.repo.split("/")), normalize_mtime=self.mtime)
        return HubCacheLayout(place, ref.repo, ref.type, normalize_mtime=self.mtime)

    def files_of(self, ref: ModelRef, snapshot: Path, extra: Sequence[str]) -> Iterator[Path]:
        """The files and links that *ref*, restored at *snapshot*, consists of; *extra* as its report names them."""
        unwanted = {Path(path) for path in extra}
        found = [path for path in _below(snapshot) if path not in unwanted]
        if self.kind is ImageLayout.PLAIN:
            others = [snapshot / name for name in _OTHERS]
            yield from (path for path in found if not any(path.is_relative_to(other) for other in others))
            return
        yield from found
        yield from (Path(os.path.normpath(link.parent / link.readlink())) for link in found if link.is_symlink())
        home = self.layout(ref).root
        yield home / "CACHEDIR.TAG"
        yield home / "trees" / f"{snapshot.name}.json"
        yield home / "refs" / ref.revision


@frozen
class PlacedModel:
    """A model as an image is to have it: what was asked for, and its manifest."""

    ref: ModelRef
    manifest: Manifest


def members(models: Sequence[PlacedModel], *, to: str, kind: ImageLayout, mtime: int) -> tuple[Part, ...]:
    """The members of an archive in which *models* lie at ``modelcache/``, sorted by path, each folder before what is in it."""
    if kind is ImageLayout.PLAIN:
        found = {
            f"{CONTEXT}{to}/{model.ref.repo}/{file.path}": Part(
                Member(f"{CONTEXT}{to}/{model.ref.repo}/{file.path}", file.size, file.executable, time=mtime), file
            )
            for model in models
            for file in model.manifest.files
        }
    else:
        found = {part.member.path: part for part in _hub_members(models, to, mtime)}
    folders = {CONTEXT, *(path[:at] for path in found for at, char in enumerate(path) if char == "/")}
    for path in folders:
        found[path] = Part(Member(path, kind=Kind.FOLDER, mode=FOLDER_MODE, time=mtime))
    return tuple(found[path] for path in sorted(found, key=str.encode))


@frozen
class Part:
    """One member of an archive, and where its bytes are."""

    member: Member
    content: bytes | FileEntry | Path = b""


def _hub_members(models: Sequence[PlacedModel], to: str, mtime: int) -> Iterator[Part]:
    """What the layout of the Hub's cache makes, seen in a folder where every blob is a hole of its size."""
    with tempfile.TemporaryDirectory() as scratch:
        tree, blobs = Tree(Path(scratch), to, ImageLayout.HUB, mtime), dict[Path, FileEntry]()
        for model in models:
            layout = tree.layout(model.ref)
            for file in model.manifest.files:
                blob = layout.content(file)
                blobs[blob] = file
                blob.parent.mkdir(parents=True, exist_ok=True)
                with blob.open("wb") as hole:
                    hole.truncate(file.size)
            layout.publish(model.manifest, model.ref, full=model.manifest.selection == ALL)
        for path in _below(tree.root):
            name = f"{CONTEXT}/{path.relative_to(tree.root).as_posix()}"
            if path.is_symlink():
                yield Part(Member(name, kind=Kind.LINK, mode=0o777, time=mtime, link=str(path.readlink())))
            elif path in blobs:
                yield Part(Member(name, blobs[path].size, time=mtime), blobs[path])
            else:
                content = path.read_bytes()
                yield Part(Member(name, len(content), time=mtime), content)


def _below(folder: Path) -> Iterator[Path]:
    """Every file and link below *folder*."""
    for name, folders, files in os.walk(folder):
        here = Path(name)
        yield from (here / one for one in (*files, *(one for one in folders if (here / one).is_symlink())))
