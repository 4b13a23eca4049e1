"""Every archive of `tests.parts.hostile` is refused with exit code 13, from a file and from a pipe, and nothing of it is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import IntegrityError
from ci_modelcache.model.digest import Digest
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.verbs.import_archive import import_archive
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.step import Step
from tests.parts.archives import InMemory, Piped
from tests.parts.cached import cache_in
from tests.parts.hostile import corpus
from tests.parts.snapshots import CONTENTS
from tests.parts.stores import tree
from tests.parts.verbs import files_in

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache

CORPUS = corpus()
SOURCES = {"file": InMemory, "pipe": Piped}
LYING = {
    *(f"{base}-lie-{what}" for base in ("oci", "plain") for what in ("size", "digest")),
    *("oci-file-altered", "oci-small-file-altered", "plain-file-altered"),
}
"""Those of which only a file is wrong: all else may have been stored before that is found out, and is right."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def empty(folder: Path) -> ModelCache:
    """A store that nothing was ever put into."""
    cache = cache_in(DirectoryStore(folder / "store", create=True))
    initialise(cache)
    return cache


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 120


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("name", sorted(CORPUS.keys() - LYING))
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    name: str, source: type[InMemory | Piped], empty: ModelCache, folder: Path
) -> None:
    before = files_in(folder)
    with pytest.raises(IntegrityError) as caught:
        import_archive(source(CORPUS[name]), cache=empty, step=Step(folder / "state", workers=2))
    assert caught.value.exit_code == 13
    assert files_in(folder) == before


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("name", sorted(LYING))
def test_of_an_archive_with_a_wrong_file_only_right_blobs_are_left(
    name: str, source: type[InMemory | Piped], tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "store", create=True)
    with pytest.raises(IntegrityError) as caught:
        import_archive(source(CORPUS[name]), cache=cache_in(store), step=Step(tmp_path / "state", workers=2))
    assert caught.value.exit_code == 13
    left = {key: data for key, data in tree(store).items() if key != "modelcache.json"}
    assert all(key == f"blobs/sha256/{key[13:15]}/{key[16:18]}/{Digest.of(data)}" for key, data in left.items())
    assert set(left.values()) < set(CONTENTS.values())
