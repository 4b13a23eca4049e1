"""The only module that decides which snapshots of a store stay, and why; it asks nobody and changes nothing."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.model.digest import Digest
from ci_modelcache.model.ref import SnapshotId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DAY = 86400.0
MIN_AGE = 7 * DAY
"""Seconds in which no policy touches a snapshot after it was published."""


class Why(StrEnum):
    """Why a snapshot stays, in the order of their strength, or why it goes."""

    PINNED = "pinned"
    LOCKED = "locked"
    YOUNG = "young"
    USED = "used"
    LAST = "last"
    UNRULED = "unruled"
    """No rule says that it goes."""
    UNUSED = "unused"
    OVERSIZE = "oversize"


_UNTOUCHABLE = frozenset({Why.PINNED, Why.LOCKED, Why.YOUNG})
"""What not even the wish for room takes away."""
_GOES = frozenset({Why.UNUSED, Why.OVERSIZE})


@frozen
class Policy:
    """
    What a user wants to keep; times in seconds, sizes in bytes, None for no such rule.

    *keep_for*: what was used or published within it. *keep_last*: of each repository the commits that were published last, so
    many. What neither keeps goes, when there is one of them. *max_size*: then what was used least recently goes until all
    that stays, each blob counted once, is no larger. None of them takes what is pinned, locked, or younger than *min_age*.
    """

    keep_for: float | None = None
    keep_last: int | None = None
    max_size: int | None = None
    min_age: float = MIN_AGE

    @property
    def is_empty(self) -> bool:
        """Whether no snapshot goes by it, whatever there is."""
        return self.keep_for is None and self.keep_last is None and self.max_size is None


@frozen
class Holding:
    """
    A snapshot that a store holds: when it was *published*, and *used* last (None: nobody has noted that), in seconds since the epoch.

    *blobs*: the size of each. *pinned* in the store, *locked* by a lock that somebody named.
    """

    snapshot: SnapshotId
    published: float
    blobs: dict[Digest, int] = field(repr=False)
    used: float | None = None
    pinned: bool = False
    locked: bool = False

    @property
    def size(self) -> int:
        """Bytes of its blobs."""
        return sum(self.blobs.values())

    @property
    def last_used(self) -> float:
        """The last moment when it may have been used: a use is noted once a day."""
        return self.published if self.used is None else max(self.published, self.used + DAY)


@frozen
class Verdict:
    """What becomes of a snapshot, and *why*."""

    holding: Holding
    why: Why

    @property
    def goes(self) -> bool:
        """Whether it is to be dropped."""
        return self.why in _GOES


def decide(holdings: Iterable[Holding], policy: Policy, *, now: float) -> tuple[Verdict, ...]:
    """What *policy* says at *now* (seconds since the epoch) about each of *holdings*, in their order."""
    given = tuple(holdings)
    last = _last_commits(given, policy.keep_last or 0)
    verdicts = [Verdict(one, _why(one, policy, now, last=_commit(one) in last)) for one in given]
    if policy.max_size is None:
        return tuple(verdicts)
    return tuple(_within(policy.max_size, verdicts))


def size_of(holdings: Iterable[Holding]) -> int:
    """Bytes of all blobs of *holdings*, each counted once."""
    return sum({digest: size for one in holdings for digest, size in one.blobs.items()}.values())


_Commit = tuple[str, str, str, str]


def _commit(one: Holding) -> _Commit:
    snapshot = one.snapshot
    return snapshot.host, snapshot.type.value, snapshot.repo, snapshot.commit


def _last_commits(holdings: Sequence[Holding], count: int) -> set[_Commit]:
    """The *count* commits of each repository that were published last: those of a whole snapshot, or of a part of it."""
    newest: dict[_Commit, float] = {}
    for one in holdings:
        newest[_commit(one)] = max(one.published, newest.get(_commit(one), one.published))
    taken: Counter[tuple[str, ...]] = Counter()
    last = set()
    for commit in sorted(newest, key=lambda each: (newest[each], each), reverse=True):
        taken[commit[:-1]] += 1
        if taken[commit[:-1]] <= count:
            last.add(commit)
    return last


def _why(one: Holding, policy: Policy, now: float, *, last: bool) -> Why:
    if one.pinned:
        return Why.PINNED
    if one.locked:
        return Why.LOCKED
    if now - one.published < policy.min_age:
        return Why.YOUNG
    if policy.keep_for is not None and now - one.last_used <= policy.keep_for:
        return Why.USED
    if last:
        return Why.LAST
    return Why.UNRULED if policy.keep_for is None and policy.keep_last is None else Why.UNUSED


def _within(limit: int, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """*verdicts*, where of what would stay as much goes as has to for the rest to fit into *limit* bytes."""
    names = Counter(digest for one in verdicts if not one.goes for digest in one.holding.blobs)
    left = size_of(one.holding for one in verdicts if not one.goes)
    result = list(verdicts)
    may_go = [n for n, one in enumerate(verdicts) if not one.goes and one.why not in _UNTOUCHABLE]
    gone = []
    for n in sorted(may_go, key=lambda n: (verdicts[n].holding.last_used, verdicts[n].holding.published)):
        if left <= limit:
            break
        names.subtract(result[n].holding.blobs.keys())
        left -= sum(size for digest, size in result[n].holding.blobs.items() if not names[digest])
        result[n] = evolve(result[n], why=Why.OVERSIZE)
        gone.append(n)
    # Of what shares all its blobs with something that stays, nothing is gained: back it comes, the last used first.
    for n in reversed(gone):
        if all(names[digest] for digest in result[n].holding.blobs):
            names.update(result[n].holding.blobs.keys())
            result[n] = verdicts[n]
    return result
