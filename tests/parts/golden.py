"""The snapshot of the golden files: few small files, strange names, and one file that is larger than a leaf."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.git import pointer_oid
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.ref import RepoType

GOLDEN = Path(__file__).parent.parent / "golden"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG = "weights/model.safetensors"

FILES = {
    "config.json": b'{"a": 1}\n',
    "Read me.md": b"",
    "tokenizer/é+%#?.txt": "é".encode(),
    "run.sh": b"#!/bin/sh\n",
    BIG: bytes(range(256)) * (LEAF_SIZE // 256) + b"tail!",
}


def output(command: str, *arguments: str, cwd: Path) -> str:
    """What the shell prints for *command*, in which *arguments* are ``$1`` and so on."""
    return subprocess.run(
        ["sh", "-c", command, "sh", *arguments], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


def write_snapshot(folder: Path) -> Path:
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def leaves_by_hand(folder: Path) -> str:
    return output('split -b 16M --filter=sha256sum "$1" | cut -c-64', BIG, cwd=folder)


def manifest_by_hand(folder: Path) -> Manifest:
    """The manifest of `write_snapshot`, every digest of it computed by git and the coreutils."""
    entries = []
    for path, data in FILES.items():
        sha256 = Digest(output('sha256sum -- "$1"', path, cwd=folder).removeprefix("\\")[:64])
        lfs = path == BIG
        oid = (
            pointer_oid(sha256, len(data))
            if lfs
            else output('git hash-object --no-filters -- "$1"', path, cwd=folder).strip()
        )
        leaves = Digest.of(leaves_by_hand(folder).encode()) if lfs else None
        entries.append(FileEntry(path, len(data), sha256, oid, lfs, path == "run.sh", leaves))
    return Manifest("huggingface.co", RepoType.MODEL, "org/name", COMMIT, "all", tuple(entries))
