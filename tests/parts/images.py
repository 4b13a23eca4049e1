"""The only module that reads images as builders save them: configuration, history, and every member of every layer."""

from __future__ import annotations

import hashlib
import json
import mmap
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

_KINDS = {tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "hard link"}


@frozen
class Member:
    """One entry of a layer: *kind* is file, folder, link or hard link; *target* is what a link names; *sha256* is of a file's bytes."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: str
    sha256: str


@frozen
class Layer:
    """One layer: *diff_id* is the digest of its tar, *members* are its entries by path, without a slash at either end."""

    diff_id: str
    members: Mapping[str, Member]

    @property
    def files(self) -> dict[str, str]:
        """The sha256 of every file in it."""
        return {path: member.sha256 for path, member in self.members.items() if member.kind == "file"}


@frozen
class Saved:
    """An image saved at *path*: its *config* with history, and its *layers* from the base on."""

    path: Path
    config: dict[str, Any]
    layers: tuple[Layer, ...]

    @property
    def history(self) -> str:
        """What ``docker history`` tells of every step, and all else that the configuration has."""
        return json.dumps(self.config)

    def holds(self, text: str) -> bool:
        """Whether *text* is anywhere: in a layer, a name, the configuration or the history. Layers are saved uncompressed."""
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text.encode()) >= 0


_known: dict[str, Layer] = {}
"""A base is in every image, and is read once."""


def read_saved(path: Path) -> Saved:
    """The image in the archive at *path*, as ``docker save`` and ``buildah push docker-archive:`` write them."""
    with tarfile.open(path) as archive:
        (manifest,) = json.loads(_read(archive, "manifest.json"))
        config = json.loads(_read(archive, manifest["Config"]))
        layers = []
        for diff_id, name in zip(config["rootfs"]["diff_ids"], manifest["Layers"], strict=True):
            if diff_id not in _known:
                _known[diff_id] = _layer(archive, name, diff_id)
            layers.append(_known[diff_id])
    return Saved(path, config, tuple(layers))


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)  # also through a link
    assert file is not None, name
    with file:
        return file.read()


def _layer(archive: tarfile.TarFile, name: str, diff_id: str) -> Layer:
    file = archive.extractfile(name)
    assert file is not None, name
    with file, tarfile.open(fileobj=file) as inner:
        members = {each.name.strip("/"): _member(inner, each) for each in inner}
    return Layer(diff_id, members)


def _member(layer: tarfile.TarFile, entry: tarfile.TarInfo) -> Member:
    sha256 = ""
    if entry.isreg():
        file = layer.extractfile(entry)
        assert file is not None
        digest = hashlib.sha256()
        with file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        sha256 = digest.hexdigest()
    kind = _KINDS.get(entry.type, "file" if entry.isreg() else "other")
    return Member(kind, entry.mode, entry.uid, entry.gid, int(entry.mtime), entry.size, entry.linkname, sha256)
