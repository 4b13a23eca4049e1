"""Remove from a store what nobody needs: snapshots by a policy, into the trash, and then what nobody names."""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from ci_modelcache.cache.access import tidy
from ci_modelcache.cache.census import refs
from ci_modelcache.cache.collection import CollectOptions, collect, require_marker, store_time, survey
from ci_modelcache.cache.pins import pinned
from ci_modelcache.cache.trash import drop, forget, trashed, undelete
from ci_modelcache.errors import CollectionRefused, SnapshotNotFound
from ci_modelcache.model.lock import Lock
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.retention import DAY, Policy, decide, size_of
from ci_modelcache.transfer.deadline import format_duration
from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.verbs.holdings import holdings, refreshed

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.model.retention import Verdict
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

KEEP_TRASH = 7 * DAY
"""Seconds in which a dropped snapshot can be brought back."""


@frozen
class PruneOptions:
    """
    What is to go: snapshots by *policy* but for those of *locks*, and garbage as *collect* says, whose brakes hold for both.

    *keep_trash*: the seconds after which a dropped snapshot is forgotten. *applies*: whether anything is done, or only looked at.
    """

    policy: Policy = field(factory=Policy)
    locks: tuple[Lock, ...] = ()
    collect: CollectOptions = field(factory=CollectOptions)
    keep_trash: float = KEEP_TRASH
    applies: bool = False


@frozen
class PrunedSnapshot:
    """A snapshot, what the policy says about it, and why; sizes in bytes."""

    ref: str
    host: str
    selection: str
    published: str
    """When it came into the store."""
    used: str | None
    """The day on which it was restored last, or null when nobody has noted that."""
    size: int
    freed: int
    """Bytes of its blobs that no snapshot has which stays."""
    why: str
    """Why it stays (`pinned`, `locked`, `young`, `used`, `last`, or `unruled`: no rule says that it goes) or goes (`unused`, `oversize`)."""


@frozen
class PruneReport:
    """What `prune` did, or would do; sizes in bytes. This is API: fields are added, never changed."""

    store: str
    applied: bool
    """Whether it was done; else nothing was changed."""
    dropped: tuple[PrunedSnapshot, ...]
    """Snapshots that go, into the trash."""
    kept: tuple[PrunedSnapshot, ...]
    """Snapshots that stay."""
    size: int
    """Bytes of all snapshots before, each blob counted once."""
    size_kept: int
    """The same of those that stay."""
    warnings: tuple[str, ...]
    in_trash: int = 0
    """How many snapshots lie in the trash afterwards."""
    forgotten: int = 0
    """How many have left it for good."""
    deleted: int = 0
    """Bytes that were deleted now: an earlier run had announced them."""
    deleted_objects: int = 0
    """How many objects they were."""
    announced: int = 0
    """Bytes that nobody names, and that a later run is going to delete."""
    announced_objects: int = 0
    """How many objects they are."""
    waiting: int = 0
    """Bytes that earlier runs have announced, and that are not deleted yet."""
    waiting_objects: int = 0
    """How many objects they are."""
    seconds: float = 0.0


def prune(cache: ModelCache, *, options: PruneOptions, step: Step) -> PruneReport:
    """
    Drop from the store of *cache* what the policy does not keep, forget what has lain in the trash for long, and collect garbage.

    Raises `CollectionRefused` when a brake holds, before anything is dropped or deleted; `IntegrityError` when it cannot be read what is
    to stay; `AccessDenied`, `Unavailable`. Whoever runs it again goes on from there, and two at once do no harm.
    """
    started = step.clock()
    pruning = _Pruning(cache.alone, options, step)
    report = pruning.apply() if options.applies else pruning.look()
    return evolve(report, seconds=step.clock() - started)


class _Pruning:
    """One run of `prune`."""

    def __init__(self, cache: ModelCache, options: PruneOptions, step: Step) -> None:
        self._cache = cache
        self._options = options
        self._step = step

    def look(self) -> PruneReport:
        """Say what `apply` would do, by the clock of this machine."""
        require_marker(self._cache, self._options.collect)
        now = self._cache.now()
        verdicts = self._decided(now)
        trash = trashed(self._cache)
        held = {one.holding.snapshot for one in verdicts}
        due = {one.snapshot for one in trash if one.modified < now - self._options.keep_trash} - self._pins()
        found = survey(
            self._cache, options=self._options.collect, deadline=self._step.deadline, without=frozenset(due - held)
        )
        refused = [f"with --yes this is refused: {one.message}" for one in self._obstacles(verdicts)]
        return evolve(
            self._report(verdicts, [*self._doubts(verdicts), *refused]),
            in_trash=len({one.snapshot for one in trash} - due) + sum(one.goes for one in verdicts),
            forgotten=len(due),
            announced=found.fresh.bytes,
            announced_objects=found.fresh.objects,
            waiting=found.condemned.bytes,
            waiting_objects=found.condemned.objects,
        )

    def apply(self) -> PruneReport:
        require_marker(self._cache, self._options.collect)
        now = store_time(self._cache)
        verdicts = self._decided(now)
        for obstacle in self._obstacles(verdicts):
            raise obstacle
        self._heal()
        forgotten = self._forget(now)
        collected = collect(self._cache, options=self._options.collect, deadline=self._step.deadline)
        # That may have taken long: what was pinned or used meanwhile stays.
        holdings_now = refreshed([one.holding for one in verdicts], cache=self._cache)
        verdicts = decide(holdings_now, self._options.policy, now=now)
        dropped = self._drop([one for one in verdicts if one.goes])
        trash = trashed(self._cache)
        living = {one.holding.snapshot for one in verdicts} | {one.snapshot for one in trash}
        tidy(self._cache, living, before=now - DAY)
        shown = [one for one in verdicts if not one.goes or one.holding.snapshot in dropped]
        return evolve(
            self._report(shown, self._doubts(verdicts)),
            applied=True,
            in_trash=len(trash),
            forgotten=forgotten,
            deleted=collected.deleted.bytes,
            deleted_objects=collected.deleted.objects,
            announced=collected.announced.bytes,
            announced_objects=collected.announced.objects,
            waiting=collected.waiting.bytes,
            waiting_objects=collected.waiting.objects,
        )

    def _decided(self, now: float) -> tuple[Verdict, ...]:
        return decide(holdings(self._cache, locks=self._options.locks), self._options.policy, now=now)

    def _pins(self) -> set[SnapshotId]:
        return {one.snapshot for one in pinned(self._cache)}

    # --- what is done

    def _heal(self) -> None:
        """Bring back what somebody pinned while another prune, which died then, was dropping it."""
        lost = self._pins() - {one.snapshot for one in refs(self._cache)}
        for entry in trashed(self._cache):
            if entry.snapshot in lost:
                _log.warning("bringing %s back from the trash: it is pinned", entry.snapshot)
                undelete(self._cache, entry.snapshot)

    def _forget(self, now: float) -> int:
        """Forget what has lain in the trash for long and return how many snapshots that were; what is pinned has left it before."""
        before = now - self._options.keep_trash
        due = [one for one in trashed(self._cache) if one.modified < before]
        return sum(forget(self._cache, one.snapshot, before=before) for one in due)

    def _drop(self, going: Sequence[Verdict]) -> frozenset[SnapshotId]:
        """Drop all that is *going*, and return what is gone by that: not what stays for a reason that came up meanwhile."""
        dropped: set[SnapshotId] = set()

        def take(one: Verdict) -> None:
            snapshot = one.holding.snapshot
            try:
                if drop(self._cache, snapshot):
                    dropped.add(snapshot)
            except SnapshotNotFound as error:
                _log.info("somebody else dropped it at the same time: %s", error)

        doing = f"dropping {len(going)} snapshots of {self._cache.url}"
        for_each(going, take, workers=self._step.workers, deadline=self._step.deadline, doing=doing)
        return frozenset(dropped)

    # --- what is said

    def _obstacles(self, verdicts: Sequence[Verdict]) -> Iterator[CollectionRefused]:
        """Why this is not to be done without a word more of the user."""
        going = [one.holding for one in verdicts if one.goes]
        allowed = self._options.collect
        if going and len(going) == len(verdicts) and not allowed.may_be_empty:
            msg = f"the policy keeps none of the {len(going)} snapshots of {self._cache.url}"
            hint = "keep some of them, with --keep-last 1 for example; or give --allow-empty"
            yield CollectionRefused(msg, hint=hint)
        before = size_of(one.holding for one in verdicts)
        freed = before - size_of(one.holding for one in verdicts if not one.goes)
        share = freed / max(1, before)
        if share > allowed.max_share:
            msg = (
                f"the policy drops {share:.1%} of the {format_bytes(before)} of all snapshots of {self._cache.url}, "
                f"expected at most {allowed.max_share:.1%}"
            )
            yield CollectionRefused(msg, hint=f"look at the table without --yes; --max-share {share:.0%} allows it")

    def _doubts(self, verdicts: Sequence[Verdict]) -> Iterator[str]:
        policy = self._options.policy
        by_use = policy.keep_for is not None or policy.max_size is not None
        if by_use and verdicts and all(one.holding.used is None for one in verdicts):
            yield (
                f"nobody has noted in {self._cache.url} that a snapshot was restored: "
                "the age of each is counted from its publication; jobs that may not write leave no note"
            )
        kept = size_of(one.holding for one in verdicts if not one.goes)
        if policy.max_size is not None and kept > policy.max_size:
            least = format_duration(policy.min_age)
            yield (
                f"{format_bytes(kept)} stay, more than the {format_bytes(policy.max_size)} of --max-size: "
                f"the rest is pinned, locked, or younger than {least}"
            )
        for lost in sorted(map(str, self._pins() - {one.holding.snapshot for one in verdicts})):
            yield f"{lost} is pinned, and {self._cache.url} does not hold it as published"

    def _report(self, verdicts: Sequence[Verdict], warnings: Iterable[str]) -> PruneReport:
        kept = [one for one in verdicts if not one.goes]
        named = {digest for one in kept for digest in one.holding.blobs}
        return PruneReport(
            store=self._cache.url,
            applied=False,
            dropped=tuple(_line(one, named) for one in verdicts if one.goes),
            kept=tuple(_line(one, named) for one in kept),
            size=size_of(one.holding for one in verdicts),
            size_kept=size_of(one.holding for one in kept),
            warnings=tuple(warnings),
        )


def _line(verdict: Verdict, named: Container[Digest]) -> PrunedSnapshot:
    one = verdict.holding
    snapshot = one.snapshot
    return PrunedSnapshot(
        ref=str(ModelRef(snapshot.repo, snapshot.commit, snapshot.type)),
        host=snapshot.host,
        selection=snapshot.selection,
        published=moment(one.published),
        used=None if one.used is None else moment(one.used),
        size=one.size,
        freed=0 if not verdict.goes else sum(size for digest, size in one.blobs.items() if digest not in named),
        why=verdict.why.value,
    )


def moment(seconds: float) -> str:
    """*seconds* since the epoch as ``2026-11-21T14:00:00Z``."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
