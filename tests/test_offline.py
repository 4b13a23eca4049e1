"""The null objects: an upstream that asks nobody and a store that holds nothing, each as its protocol wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.errors import AccessDenied, ModelCacheError, ObjectNotFound, SnapshotNotFound
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.sources.offline import Offline
from ci_modelcache.stores.empty import EmptyStore
from ci_modelcache.stores.protocol import OnDisk, Store
from ci_modelcache.verbs.initialise import initialise

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.sources.protocol import Upstream

REF = ModelRef("acme/tiny", "v1", RepoType.DATASET)
COMMIT = "1" * 40
FILE = ListedFile("a", 1, "2" * 40, None)
NOBODY: Upstream = Offline("hub.example", why="offline = true in modelcache.toml:3")
NOTHING: Store = EmptyStore()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: NOBODY.resolve(REF),
        lambda: NOBODY.listing(REF, COMMIT),
        lambda: NOBODY.branches(REF),
        lambda: NOBODY.tags(REF),
        lambda: NOBODY.open(REF, COMMIT, FILE),
    ],
)
def test_every_question_is_a_miss_that_says_why_and_what_to_do(ask: Callable[[], object]) -> None:
    with pytest.raises(SnapshotNotFound) as caught:
        ask()
    assert caught.value.exit_code == 10
    assert "hub.example may not be asked: offline = true in modelcache.toml:3" in caught.value.message
    assert "ci-modelcache fetch dataset:acme/tiny@" in str(caught.value.hint)


def test_it_has_the_name_of_the_hub_that_it_stands_for() -> None:
    assert NOBODY.host == "hub.example"
    assert "offline" in NOBODY.url


@pytest.mark.parametrize("ask", [lambda: NOTHING.read("a"), lambda: NOTHING.stat("a")])
def test_an_empty_store_misses_everything(ask: Callable[[], object]) -> None:
    with pytest.raises(ObjectNotFound) as caught:
        ask()
    assert caught.value.exit_code == 10
    assert list(NOTHING.scan("")) == []
    NOTHING.delete("a")


def test_an_empty_store_takes_nothing_and_says_how_to_have_one() -> None:
    with pytest.raises(AccessDenied) as caught:
        NOTHING.write("a", [b""], size=0)
    assert "--mode" in str(caught.value.hint)


def test_a_cache_over_an_empty_store_is_empty_and_cannot_be_initialised() -> None:
    cache = ModelCache(NOTHING)
    assert not isinstance(NOTHING, OnDisk)
    assert cache.folders == ()
    assert list(cache.snapshots()) == []
    assert list(cache.blob_copies(Digest.of(b""), 0)) == []
    for ask in (lambda: cache.head("hub.example", REF), lambda: initialise(cache)):
        with pytest.raises(ModelCacheError) as caught:
            ask()
        assert isinstance(caught.value, (SnapshotNotFound, AccessDenied))
