"""
The golden store of format 1, in ``tests/golden/store/``. It must stay readable for ever, so it is never made anew by a test.

To change the format on purpose, with a new format number: ``python -m tests.parts.golden_store``, and look at the difference. The archives
beside it were made by ``CI_MODELCACHE_STORE=tests/golden/store ci-modelcache export tiny/golden_model@<COMMIT> -o ... --format ...``.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.cache.answers import keep_answer
from ci_modelcache.cache.records import HUB, SAVED
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.git import pointer_oid
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.sources.protocol import Meaning
from ci_modelcache.stores.directory import DirectoryStore
from tests.parts.cached import cache_in, publish

if TYPE_CHECKING:
    from ci_modelcache.stores.protocol import Store

GOLDEN_STORE = Path(__file__).parent.parent / "golden" / "store"
GOLDEN_ARCHIVES = {name: GOLDEN_STORE.with_name("archives") / f"{name}.tar" for name in ("oci", "plain")}
"""What `export` makes of its snapshot, asked for by its commit."""
FILES = {
    "config.json": b'{"model_type": "bert"}\n',
    "scripts/run.sh": b"#!/bin/sh\nexec true\n",
    "weights/mod\u00e8le 1.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOST = "huggingface.co"
REPO = "tiny/golden_model"
TAG = "release/1.0"
ANSWER = Meaning(COMMIT, 'W/"a27-vndQfbspAL31/eKATEOf36LyR8k"')


def manifest() -> Manifest:
    """The manifest of the snapshot in it."""
    return Manifest(HOST, RepoType.MODEL, REPO, COMMIT, "all", tuple(_entry(*item) for item in FILES.items()))


def _entry(path: str, data: bytes) -> FileEntry:
    lfs = path.endswith(".safetensors")
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    oid = pointer_oid(Digest.of(data), len(data)) if lfs else git
    return FileEntry(path, len(data), Digest.of(data), oid, lfs, path.endswith(".sh"))


def fill(store: Store) -> None:
    """Initialise the empty *store* and publish that snapshot, with a clock and a randomness that repeat."""
    cache = cache_in(store, seed=b"golden")
    cache.initialise(lambda _: {"create_only": "atomic", "deletes": True})
    publish(cache, manifest(), FILES)
    cache.put_head(HOST, ModelRef(REPO, "main"), COMMIT, HUB)
    cache.put_head(HOST, ModelRef(REPO, TAG), COMMIT, SAVED)
    keep_answer(cache, HOST, ModelRef(REPO, "main"), ANSWER)


if __name__ == "__main__":
    shutil.rmtree(GOLDEN_STORE, ignore_errors=True)
    made = DirectoryStore(GOLDEN_STORE, create=True)
    fill(made)
    shutil.rmtree(GOLDEN_STORE / "intents")
    shutil.rmtree(GOLDEN_STORE / ".staging")
    for info in made.scan(""):
        made.path(info.key).chmod(0o644)
