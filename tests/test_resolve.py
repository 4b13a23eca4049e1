"""Who is believed about what a branch means, when, and how it is said."""

from __future__ import annotations

import pytest

from ci_modelcache.cache.records import SAVED
from ci_modelcache.errors import AccessDenied, RevisionNotFound, SnapshotNotFound, Unavailable
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.verbs.resolve import Resolution, note_head, resolve, resolve_now
from tests.parts.hub_faults import Status, api
from tests.parts.stores import Failing, touching
from tests.parts.verbs import REPO, Bench, pinned, swap

REF = ModelRef(REPO)
TTL = 100.0
OLD = "1" * 40


def meaning(bench: Bench, ref: ModelRef = REF, *, offline: bool = False) -> Resolution:
    upstream = bench.offline if offline else bench.upstream()
    return resolve(ref, cache=bench.cache(), upstream=upstream, revision_ttl=TTL)


def known(bench: Bench, *, age: float = 0, origin: str = "hub") -> None:
    """The store saw the branch *age* seconds ago, as `OLD`."""
    bench.time -= age
    bench.cache().put_head(bench.host, REF, OLD, origin)
    bench.time += age


def test_a_commit_means_itself_and_nobody_is_asked(bench: Bench) -> None:
    bench.store = Failing(bench.disk, lambda: AssertionError("asked"), touching(""))  # type: ignore[arg-type,return-value]  # never to be raised
    ref = ModelRef.parse(pinned(bench))
    assert meaning(bench, ref) == resolve_now(ref, cache=bench.cache(), upstream=bench.offline)
    assert meaning(bench, ref) == Resolution(bench.commit, "pinned")
    assert bench.hub.requests() == []


@pytest.mark.parametrize(("age", "expected"), [(0, OLD), (TTL, OLD), (-TTL, OLD), (TTL + 1, None), (-TTL - 1, None)])
def test_a_fresh_word_of_the_store_counts_and_a_clock_that_is_wrong_makes_none_fresh(
    bench: Bench, age: float, expected: str | None
) -> None:
    known(bench, age=age)
    assert meaning(bench) == Resolution(expected or bench.commit, "store" if expected else "authority")
    assert len(bench.hub.requests()) == (0 if expected else 1)


def test_what_somebody_saved_does_not_age_and_the_hub_does_not_know_better(bench: Bench) -> None:
    known(bench, age=1e9, origin=SAVED)
    assert meaning(bench) == Resolution(OLD, "store")
    assert resolve_now(REF, cache=bench.cache(), upstream=bench.offline) == Resolution(OLD, "store")


def test_an_old_word_is_used_when_nobody_answers_and_called_stale(bench: Bench) -> None:
    known(bench, age=1e6)
    assert meaning(bench, offline=True) == Resolution(OLD, "store", stale=True)
    bench.hub.faults.append(Status(when=api))
    assert meaning(bench) == Resolution(OLD, "store", stale=True)
    with pytest.raises(Unavailable):
        resolve_now(REF, cache=bench.cache(), upstream=bench.upstream())


def test_a_definite_no_is_final(bench: Bench) -> None:
    known(bench, age=1e6)
    bench.repository.private = True
    with pytest.raises(AccessDenied) as caught:
        meaning(bench)
    assert any(OLD in note for note in caught.value.__notes__)
    bench.repository.private = False
    del bench.repository.branches["main"]
    with pytest.raises(RevisionNotFound):
        meaning(bench)


def test_without_any_word_offline_is_a_miss(bench: Bench) -> None:
    with pytest.raises(SnapshotNotFound):
        meaning(bench, offline=True)


def test_a_store_that_fails_is_not_passed_over(bench: Bench) -> None:
    bench.store = Failing(bench.disk, lambda: AccessDenied("no"), touching("heads/"))
    with pytest.raises(AccessDenied):
        meaning(bench)
    assert bench.hub.requests() == []


def test_a_word_that_cannot_be_read_is_none(bench: Bench) -> None:
    known(bench)
    (head,) = (bench.disk.root / "heads").rglob("*.json")
    swap(head, b"[]")
    assert meaning(bench) == Resolution(bench.commit, "authority")
    assert resolve_now(REF, cache=bench.cache(), upstream=bench.upstream()).commit == bench.commit


def test_only_what_the_authority_said_is_noted(bench: Bench) -> None:
    for anchor in ("store", "pinned", "lock"):
        note_head(REF, Resolution(OLD, anchor), cache=bench.cache(), host=bench.host)
    assert list(bench.disk.scan("heads/")) == []
    note_head(REF, Resolution(OLD, "authority"), cache=bench.cache(), host=bench.host)
    assert bench.cache().head(bench.host, REF).commit == OLD
