"""Small snapshots, made by hand: a manifest from contents, and the contents put where a layout wants them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ci_modelcache.model.digest import Digest, Fingerprinter
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.ref import RepoType
from ci_modelcache.model.selection import ALL
from ci_modelcache.transfer.land import land

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ci_modelcache.layouts.protocol import Layout

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "tiny/model"
CONTENTS = {
    "config.json": b'{"model_type": "bert"}\n',
    "empty.txt": b"",
    "model.safetensors": b"weights" * 1000,
    "onnx/model.onnx": b"graph" * 1000,
    "onnx/quantised/run.sh": b"#!/bin/sh\nexit 0\n",
}
"""A snapshot with an empty file, two LFS files, an executable and nested folders."""
LFS = (".safetensors", ".onnx")


def git_name(data: bytes) -> str:
    """The name that git gives to a blob of *data*."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def entry(path: str, data: bytes, *, executable: bool = False) -> FileEntry:
    """The manifest entry of *data* at *path*; the suffix decides whether it is an LFS file, as ``.gitattributes`` does."""
    hasher = Fingerprinter(len(data), git=False)
    hasher.update(data)
    seen = hasher.finish()
    lfs = path.endswith(LFS)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{seen.sha256}\nsize {len(data)}\n".encode()
    return FileEntry(
        path=path,
        size=len(data),
        sha256=seen.sha256,
        git_oid=git_name(pointer if lfs else data),
        lfs=lfs,
        executable=executable,
        leaves=seen.leaves,
    )


def manifest_of(
    contents: Mapping[str, bytes] = CONTENTS,
    *,
    commit: str = COMMIT,
    selection: str = ALL,
    executable: Collection[str] = ("onnx/quantised/run.sh",),
) -> Manifest:
    """The manifest of *contents*."""
    files = tuple(entry(path, data, executable=path in executable) for path, data in contents.items())
    return Manifest("huggingface.co", RepoType.MODEL, REPO, commit, selection, files)


def fill(layout: Layout, manifest: Manifest, contents: Mapping[str, bytes] = CONTENTS) -> None:
    """Land every file of *manifest* where *layout* wants it, as a verb does before it publishes."""
    for file in manifest.files:
        data = contents[file.path]
        assert Digest.of(data) == file.sha256
        land([data], layout.content(file), file.expected, mode=layout.mode(file), staging=layout.staging)
