"""
Whatever the order, whoever dies and whatever answer is lost: nobody who was told that a snapshot is stored loses it to a collection.

The code of writers, readers, the trash and collections is the real one; the store, the clocks and the order are `tests/parts/simulated.py`'s.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cache import collection, keys, named
from ci_modelcache.cache.census import entries
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import Publication
from ci_modelcache.errors import ModelCacheError
from tests.parts.simulated import Violation, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = 2000
LISTED = 200
"""Seeds of those whose writers find out by a listing what is stored, and do not ask for each blob."""
PORTION = 50
ENOUGH = 400
"""Seeds that find what is missing; most of them within a hundred."""
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Thousands of warnings of faults that were meant would fill the memory."""
    with caplog.at_level("CRITICAL"):
        yield


@pytest.mark.parametrize("first", range(0, SEEDS, PORTION))
def test_no_seed_loses_what_somebody_was_told_is_stored(first: int) -> None:
    for seed in range(first, first + PORTION):
        try:
            simulate(seed)
        except Exception as error:
            repro = f"python -m tests.parts.simulated {seed}"
            msg = f"seed {seed}: {type(error).__name__}: {error}; what happened is printed by: {repro}"
            raise AssertionError(msg) from error


@pytest.mark.parametrize("first", range(0, LISTED, PORTION))
def test_nor_does_one_whose_writers_list_what_is_stored(first: int) -> None:
    for seed in range(first, first + PORTION):
        try:
            simulate(seed, listed=True)
        except Exception as error:
            repro = f"python -m tests.parts.simulated {seed} --listed"
            msg = f"seed {seed}: {type(error).__name__}: {error}; what happened is printed by: {repro}"
            raise AssertionError(msg) from error


def test_a_ref_whose_delete_lands_after_it_was_brought_back_is_in_the_trash_still() -> None:
    simulate(1097, listed=True)


def test_a_seed_is_the_same_in_every_process() -> None:
    program = "from tests.parts.simulated import simulate; import logging; logging.disable(); print(simulate(7).log, simulate(11).log)"
    logs = {
        hashlib.sha256(
            subprocess.check_output(
                [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)}
            )
        ).hexdigest()
        for hash_seed in (1, 2)
    }
    assert len(logs) == 1


MUTATIONS: dict[str, tuple[object, str, object]] = {
    "writers ignore the lists": (ModelCache, "condemned", lambda _: frozenset()),
    "condemned names are written again": (Publication, "_writable", lambda _, canonical: canonical),
    "writers do not look for their intents": (Publication, "_stand", lambda _self, _intents: True),
    "trash is not read": (
        named,
        "entries",
        lambda cache, prefix, kind: () if prefix == keys.TRASH else entries(cache, prefix, kind),
    ),
    "nothing is doomed before names are read": (collection, "doom_names", lambda *_, **__: None),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_seeds_find_each_part_that_is_missing(monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    where, name, instead = MUTATIONS[mutation]
    monkeypatch.setattr(where, name, instead)

    def is_found(seed: int) -> bool:
        try:
            simulate(seed)
        except (Violation, ModelCacheError):  # the latter when everything is read at the end
            return True
        return False

    assert any(is_found(seed) for seed in range(ENOUGH))
