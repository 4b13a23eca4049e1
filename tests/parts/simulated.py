"""
The only module that runs real writers, readers and collections over a store in memory, in an order that a seed decides, and with faults.

Each actor is a thread, and only one of them runs at a time: before every operation of its store it waits until it is chosen. Meanwhile
hours may go by, the actor may die, its operation may fail, or be done and its answer be lost; a DELETE whose answer is lost may
land up to three days later. Clocks of actors are wrong by days. What the seeds of `tests/test_collection_seeds.py` must never see is a
snapshot of which somebody was told that it is stored, and that is not.

``python -m tests.parts.simulated SEED`` runs one seed and prints what happened.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from attrs import define, evolve, field, frozen

from ci_modelcache.cache import census, collection, keys, named, presence, publication, trash
from ci_modelcache.cache.collection import CollectOptions, collect
from ci_modelcache.cache.publication import published
from ci_modelcache.errors import (
    IntegrityError,
    ModelCacheError,
    NotFound,
    SnapshotNotFound,
    Unavailable,
)
from ci_modelcache.model import digest as model_digest
from ci_modelcache.model import manifest as model_manifest
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.stores import sums
from ci_modelcache.stores.protocol import ObjectInfo
from ci_modelcache.transfer.deadline import Deadline
from tests.parts.cached import NOW, cache_in, publish, read_snapshot
from tests.parts.snapshots import manifest_of
from tests.parts.stores import Crash, MemoryStore, Operation, Passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache

HOUR = 3600.0
DAY = 24 * HOUR
LATEST = 3 * DAY
"""Seconds after which a DELETE that was asked for has landed or never will. Half of the quarantine and this are less than the quarantine."""
EVERYTHING = CollectOptions(grace=0.0, min_age=0.0, max_share=1.0, may_be_empty=True)


class AgingStore(MemoryStore):
    """A `MemoryStore` with a clock that stands still until somebody turns it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.modified: dict[str, float] = {}

    def later(self, seconds: float) -> None:
        """Let *seconds* go by."""
        self.now += seconds

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        super().write(key, chunks, size=size, create_only=create_only, sums=sums)
        self.modified[key] = self.now

    def stat(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, super().stat(key).size, self.modified.get(key, 0.0))

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        for info in super().scan(prefix):
            yield ObjectInfo(info.key, info.size, self.modified.get(info.key, 0.0))


def in_turn(items: Iterable[object], work: Callable[[object], object], **_how: object) -> None:
    """What `for_each` does, without threads: in an order that is the same every time."""
    for item in list(items):
        work(item)


@contextmanager
def one_thread() -> Iterator[None]:
    """Nothing of the protocol starts a thread."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (publication, named, census, collection, trash):
            patch.setattr(module, "for_each", in_turn)
        yield


@contextmanager
def small_leaves() -> Iterator[None]:
    """Files of more than 16 bytes have leaf lists."""
    with pytest.MonkeyPatch.context() as patch:
        for part in (model_digest, model_manifest, publication):
            patch.setattr(part, "LEAF_SIZE", 16)
        patch.setattr(sums, "SPAN", 16)
        yield


@contextmanager
def _listing(*, for_few: bool) -> Iterator[None]:
    """Writers find out what is stored by a listing, *for_few* blobs too, or else by asking for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence, "_FEW", 1 if for_few else 1 << 30)
        yield


class Violation(AssertionError):
    """What must never happen."""


@frozen
class Snapshot:
    """A *manifest* and what its files hold."""

    manifest: Manifest
    contents: dict[str, bytes]

    @property
    def hexes(self) -> frozenset[str]:
        files = self.manifest.files
        leaves = {file.leaves.hex for file in files if file.leaves is not None}
        return frozenset({self.manifest.digest.hex, *(file.sha256.hex for file in files), *leaves})


def snapshots() -> tuple[Snapshot, ...]:
    """Three snapshots, of which each two share a file; to be made within `small_leaves`."""
    shared = {"config.json": b"{}", "big.bin": bytes(40), "vocab.txt": b"words"}
    found = []
    for number, (left_out, *_) in enumerate(shared.items()):
        contents = {path: data for path, data in shared.items() if path != left_out}
        contents["own.bin"] = b"own %d" % number
        found.append(Snapshot(evolve(manifest_of(contents), repo=f"acme/model-{number}"), contents))
    return tuple(found)


@define
class Actor:
    """Somebody at work, *act*; `turn` is given to it by the world, which `ended` is told when it is done."""

    name: str
    act: Callable[[ModelCache], object]
    skew: float
    turn: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))
    ended: bool = False
    dead: bool = False
    failure: BaseException | None = None


@frozen
class Odds:
    """How often, of all operations, something goes wrong, and how often hours go by."""

    crash: float
    fail: float
    lose: float
    late: float
    jump: float
    stay: float
    """How often the one who has just done something goes on at once: the more, the longer the others stall."""

    @classmethod
    def of(cls, chance: random.Random) -> Odds:
        rare, often = (0.0, 0.0, 0.004, 0.02), (0.0, 0.02, 0.1)
        return cls(
            crash=chance.choice(rare),
            fail=chance.choice(rare),
            lose=chance.choice(rare),
            late=chance.choice(often),
            jump=chance.choice((0.0, 0.01, 0.05)),
            stay=chance.choice((0.0, 0.7, 0.9, 0.97, 0.99)),
        )


class World:
    """A store, who is at work there, and what they were told, as *seed* decides."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = AgingStore()
        self.log: list[str] = []
        self.snapshots = snapshots()
        self.promised: set[int] = set()
        self.dropped: set[int] = set()
        """Snapshots that were ever dropped: a reader may miss them."""
        self.forgotten: set[int] = set()
        self.odds = Odds.of(self.chance)
        self._late: list[tuple[float, str]] = []
        self._actors: list[Actor] = []
        self._back = threading.Semaphore(0)
        self._made = 0

    # --- who is at work

    def cache(self, store: Passing | AgingStore, skew: float = 0.0) -> ModelCache:
        self._made += 1
        return cache_in(store, seed=b"%d" % self._made, now=lambda: self.store.now + skew)

    def enter(self, name: str, act: Callable[[ModelCache], object]) -> None:
        self._actors.append(Actor(name, act, self.chance.choice((0.0, -2 * DAY, 2 * DAY))))

    def run(self) -> None:
        """Let everybody who entered work until all are done or dead."""
        for actor in self._actors:
            threading.Thread(
                target=self._work, args=(actor, self.cache(Stepwise(self, actor), actor.skew)), daemon=True
            ).start()
        last: Actor | None = None
        while alive := [actor for actor in self._actors if not actor.ended]:
            self._pass_time()
            stays = last is not None and not last.ended and self.chance.random() < self.odds.stay
            last = actor = last if last is not None and stays else self.chance.choice(alive)
            actor.turn.release()
            self._back.acquire()
            if actor.failure is not None:
                raise actor.failure
        self._actors.clear()
        while self._late:
            self._land(self._late.pop()[1])

    def _work(self, actor: Actor, cache: ModelCache) -> None:
        actor.turn.acquire()
        try:
            actor.act(cache)
        except Crash:
            self.say(f"{actor.name} is dead")
        except ModelCacheError as error:
            self.say(f"{actor.name} fails: {type(error).__name__}: {error}")
        except BaseException as error:  # noqa: BLE001  # raised by whoever runs the world
            actor.failure = error
        actor.ended = True
        self._back.release()

    def _pass_time(self) -> None:
        self.store.later(self.chance.choice((0.0, 1.0, 10.0)))
        if self.chance.random() < self.odds.jump:
            seconds = self.chance.choice((HOUR, 6 * HOUR, DAY, 2 * DAY))
            self.store.later(seconds)
            self.say(f"{seconds / HOUR:g} hours go by")
        for each in [*self._late]:
            sent, key = each
            if self.store.now - sent > LATEST or self.chance.random() < 0.05:
                self._late.remove(each)
                self._land(key)

    def wait(self, actor: Actor) -> None:
        """Called by *actor* before an operation: somebody is chosen, who may be the same."""
        if actor.dead:
            raise Crash
        self._back.release()
        actor.turn.acquire()

    # --- what happens

    def say(self, what: str) -> None:
        self.log.append(what)

    def send_late(self, key: str) -> None:
        self._late.append((self.store.now, key))

    def _land(self, key: str) -> None:
        self.say(f"the late DELETE of {key} lands")
        self.delete(key)

    def delete(self, key: str) -> None:
        """Delete *key*, unless that breaks a promise."""
        was_there = key in self.store.objects
        self.store.delete(key)
        digest = keys.collectable(key)
        if digest and was_there:
            for number in self.promised - self.forgotten:
                if digest in self.snapshots[number].hexes and not self._copies(digest) and self.is_named(number):
                    msg = f"the last copy of {key}, which snapshot {number} needs, was deleted"
                    raise Violation(msg)

    def _copies(self, digest: str) -> list[str]:
        return [key for key in self.store.objects if keys.collectable(key) == digest]

    def is_named(self, number: int) -> bool:
        snapshot = self.snapshots[number].manifest.id
        return not {keys.ref(snapshot), keys.trash(snapshot)}.isdisjoint(self.store.objects)

    # --- acts

    def writes(self, number: int, *, careful: bool) -> Callable[[ModelCache], None]:
        """Store a snapshot, or find it stored; who is told of success is promised that it stays."""

        def act(cache: ModelCache) -> None:
            one = self.snapshots[number]
            if careful:
                with suppress(SnapshotNotFound, IntegrityError):
                    published(cache, one.manifest.id)
                    return self.promise(number, "found")
            publish(cache, one.manifest, one.contents)
            return self.promise(number, "stored")

        return act

    def promise(self, number: int, how: str) -> None:
        self.say(f"snapshot {number} is {how}")
        self.promised.add(number)
        # It may have been dropped between that and now, or not: who drops it is not told here.
        missing = [each for each in self.snapshots[number].hexes if not self._copies(each)]
        if missing and self.is_named(number):
            msg = f"snapshot {number} is {how}, and {missing} are not there"
            raise Violation(msg)

    def reads(self, number: int) -> Callable[[ModelCache], None]:
        """Read a snapshot; it may be a miss only where nobody was promised anything, or somebody dropped it."""

        def act(cache: ModelCache) -> None:
            sure = number in self.promised
            try:
                self.read(cache, number)
            except NotFound as error:
                if sure and number not in self.dropped:
                    msg = f"a reader misses snapshot {number}: {error}"
                    raise Violation(msg) from error
                self.say(f"snapshot {number} is missed")
            else:
                self.say(f"snapshot {number} is read")

        return act

    def read(self, cache: ModelCache, number: int) -> None:
        read_snapshot(cache, self.snapshots[number].manifest.id)

    def drops(self, number: int) -> Callable[[ModelCache], None]:
        def act(cache: ModelCache) -> None:
            self.dropped.add(number)
            trash.drop(cache, self.snapshots[number].manifest.id)
            self.say(f"snapshot {number} is dropped")

        return act

    def undeletes(self, number: int) -> Callable[[ModelCache], None]:
        def act(cache: ModelCache) -> None:
            trash.undelete(cache, self.snapshots[number].manifest.id)
            self.promise(number, "brought back")

        return act

    def forgets(self, number: int) -> Callable[[ModelCache], None]:
        def act(cache: ModelCache) -> None:
            self.dropped.add(number)
            self.forgotten.add(number)
            trash.forget(cache, self.snapshots[number].manifest.id, before=self.store.now)

        return act

    def collects(self, options: CollectOptions, times: int) -> Callable[[ModelCache], None]:
        def act(cache: ModelCache) -> None:
            for _ in range(times):
                done = collect(cache, options=options, deadline=Deadline(1e9, clock=lambda: self.store.now))
                self.say(
                    f"deleted {done.deleted.objects}, spared {done.spared.objects}, announced {done.announced.objects}"
                )

        return act


class Stepwise(Passing):
    """The store as *actor* sees it: whenever it wants something, it waits, and then that may go wrong."""

    def __init__(self, world: World, actor: Actor) -> None:
        super().__init__(world.store)
        self._world = world
        self._actor = actor

    def before(self, operation: Operation) -> None:
        world, actor = self._world, self._actor
        asked = world.store.now
        world.wait(actor)
        too_late = operation.verb == "delete" and world.store.now - asked > LATEST
        if too_late or world.chance.random() < world.odds.crash:
            actor.dead = True
            world.say(f"{actor.name} dies before {operation}")
            raise Crash
        if world.chance.random() < world.odds.fail:
            world.say(f"{actor.name}: {operation} fails")
            raise Unavailable("cut off before")
        world.say(f"{actor.name}: {operation}")

    def after(self, operation: Operation) -> None:
        if self._world.chance.random() < self._world.odds.lose:
            self._world.say(f"{self._actor.name}: the answer to {operation} is lost")
            raise Unavailable("cut off after")

    def delete(self, key: str) -> None:
        operation = Operation("delete", key)
        self.before(operation)
        if self._world.chance.random() < self._world.odds.late:
            self._world.say(f"{self._actor.name}: {operation} is under way, and its answer is lost")
            self._world.send_late(key)
            raise Unavailable("cut off, and it is not known whether it was done")
        self._world.delete(key)
        self.after(operation)


def simulate(seed: int, *, listed: bool = False) -> World:
    """
    Run *seed*; raises `Violation`, or whatever else went wrong, with the world as ``world`` of it.

    *listed*: writers find out what is stored by a listing; otherwise they ask for each blob.
    """
    with one_thread(), small_leaves(), _listing(for_few=listed):
        world = World(seed)
        try:
            _prepare(world)
            for _ in range(world.chance.choice((1, 1, 2, 3))):
                _enter(world)
                world.run()
                world.store.later(world.chance.choice((0.0, HOUR, DAY, 3 * DAY, 8 * DAY)))
            _settle(world)
        except BaseException as error:
            error.world = world  # type: ignore[attr-defined]  # for whoever prints it
            raise
    return world


def _prepare(world: World) -> None:
    """Garbage of former times, some of it announced already: where nothing is in danger nothing is lost."""
    cache = world.cache(world.store)
    for number, one in enumerate(world.snapshots):
        if world.chance.random() < 0.8:
            publish(cache, one.manifest, one.contents)
            if world.chance.random() < 0.8:
                world.store.delete(keys.ref(one.manifest.id))
            else:
                world.promise(number, "stored")
    if world.chance.random() < 0.5:
        collect(cache, options=EVERYTHING, deadline=Deadline())
        world.store.later(world.chance.choice((0.0, DAY)))


def _enter(world: World) -> None:
    chance = world.chance
    numbers = range(len(world.snapshots))
    acts: list[tuple[str, Callable[[int], Callable[[ModelCache], object]]]] = [
        ("reader", world.reads),
        ("dropper", world.drops),
        ("dropper", world.drops),
        ("undeleter", world.undeletes),
        ("forgetter", world.forgets),
    ]
    # Few snapshots, so that actors meet.
    few = chance.sample(numbers, chance.choice((1, 1, 2, 3)))
    for each in range(chance.choice((1, 2, 2, 3))):
        number = chance.choice(few)
        world.enter(f"writer {each} of {number}", world.writes(number, careful=chance.random() < 0.6))
    for each in range(chance.choice((0, 1, 2))):
        name, act = chance.choice(acts)
        number = chance.choice(few)
        world.enter(f"{name} {each} of {number}", act(number))
    for each in range(chance.choice((1, 1, 2))):
        options = CollectOptions(
            grace=chance.choice((0.0, 0.0, HOUR, DAY)),
            min_age=chance.choice((0.0, 0.0, HOUR)),
            intent_age=chance.choice((0.0, 0.0, 5.0, 3 * DAY)),
            max_share=1.0,
            may_be_empty=True,
        )
        world.enter(f"collection {each}", world.collects(options, chance.choice((1, 2, 3))))


def _settle(world: World) -> None:
    """Nothing goes wrong any more: what was promised is there, whatever was left is repaired, and all garbage goes."""
    cache = world.cache(world.store)
    for number in sorted(world.promised - world.dropped):
        world.reads(number)(cache)
    for number in sorted(world.promised & world.dropped):
        one = world.snapshots[number]
        if keys.trash(one.manifest.id) in world.store.objects:
            world.undeletes(number)(cache)
            world.read(cache, number)
        elif keys.ref(one.manifest.id) in world.store.objects:
            world.read(cache, number)
        elif number not in world.forgotten:
            msg = f"snapshot {number} was dropped, and is not in the trash"
            raise Violation(msg)
    world.forgotten.clear()
    for number in range(len(world.snapshots)):
        publish(cache, world.snapshots[number].manifest, world.snapshots[number].contents)
        world.promise(number, "stored")
    for _ in range(2):
        collect(cache, options=EVERYTHING, deadline=Deadline())
        world.store.later(4 * DAY)
    last = collect(cache, options=EVERYTHING, deadline=Deadline())
    for number in range(len(world.snapshots)):
        world.read(cache, number)
    if last.survey.unnamed.objects:
        msg = f"garbage stays: {last}"
        raise Violation(msg)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parts.simulated", description="Run seeds, and print the first that fails."
    )
    parser.add_argument("seed", type=int)
    parser.add_argument("--seeds", type=int, default=1, help="so many, from SEED on")
    parser.add_argument("--listed", action="store_true", help="writers list what is stored")
    parser.add_argument("--log", action="store_true", help="print what happened also when nothing is wrong")
    given = parser.parse_args()
    logging.disable()
    for seed in range(given.seed, given.seed + given.seeds):
        try:
            log = simulate(seed, listed=given.listed).log
        except BaseException as error:  # noqa: BLE001  # told
            log = getattr(error, "world").log  # noqa: B009  # no attribute of its type
            sys.stdout.write("\n".join([*log, f"seed {seed}: {type(error).__name__}: {error}", ""]))
            return 1
        if given.log:
            sys.stdout.write("\n".join([*log, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
