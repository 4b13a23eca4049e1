"""
Writers, readers and collections as processes on SeaweedFS, killed again and again: whoever was told of success finds everything there.

``python -m tests.soak_collect --minutes 10`` ends with the exit code 1 when anybody did not, or when ``verify --all`` finds something.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
from attrs import evolve, frozen

from ci_modelcache.cache import trash
from ci_modelcache.cache.collection import Amount, CollectOptions, collect
from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.cache.publication import published
from ci_modelcache.errors import IntegrityError, ModelCacheError, ObjectNotFound, SnapshotNotFound
from ci_modelcache.stores.probe import probe
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.cached import publish, read_snapshot
from tests.parts.servers import ADMIN, BUCKET, REGION, seaweedfs
from tests.parts.snapshots import manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.model.manifest import Manifest

ROOT = Path(__file__).parent.parent
PREFIX = "soak"
SNAPSHOTS = 8
OPTIONS = CollectOptions(grace=0.0, min_age=0.0, intent_age=20.0, quarantine=60.0, max_share=1.0, may_be_empty=True)
"""As hasty as can be; who is killed sends nothing any more, so that a quarantine of a minute is enough."""
ROLES = ("writer", "writer", "dropper", "reader", "collection", "collection")
WORK = ("stored", "found", "forgotten", "read", "collected", "deleted something")
"""What must have been done, or this showed nothing."""
EXPECTED = 3
"""The exit code of who finds something lost."""


@frozen
class Snapshot:
    """Number *number* of those that come and go; neighbours share files."""

    number: int

    @property
    def contents(self) -> dict[str, bytes]:
        chance = random.Random(self.number % 3)
        shared = {"config.json": b"{}", "shared.bin": chance.randbytes(200_000)}
        return {**shared, "own.bin": random.Random(100 + self.number).randbytes(50_000)}

    @property
    def manifest(self) -> Manifest:
        return evolve(manifest_of(self.contents), repo=f"acme/model-{self.number}")


def opened(endpoint: str) -> ModelCache:
    """The store, with the credentials of the environment."""
    retry = RetryPolicy(attempts=3, deadline=Deadline())
    return ModelCache(S3Store(BUCKET, PREFIX, endpoint_url=endpoint, region=REGION, retry=retry), retry=retry)


class Worker:
    """One process: *role* over and over, until it is killed. *folder* holds a lock for each snapshot."""

    def __init__(self, role: str, endpoint: str, folder: Path, seed: int) -> None:
        self._act: Callable[[], str] = getattr(self, role)
        self._cache = opened(endpoint)
        self._folder = folder
        self._chance = random.Random(seed)
        self._tally = (folder / f"{role}-{seed}.log").open("a", buffering=1)

    def run(self) -> int:
        while True:
            try:
                done = self._act()
            except AssertionError as lost:
                self._tally.write(f"LOST {lost}\n")
                return EXPECTED
            except ModelCacheError as error:
                done = f"failed: {type(error).__name__}"
            self._tally.write(f"{done}\n")

    def _locked(self, number: int) -> filelock.BaseFileLock:
        """Nobody else drops or writes that snapshot meanwhile, so that it must be there; collections ask nobody."""
        return filelock.FileLock(self._folder / f"{number}.lock")

    def _expect(self, one: Snapshot, why: str) -> None:
        try:
            read_snapshot(self._cache, one.manifest.id)
        except (SnapshotNotFound, ObjectNotFound, IntegrityError) as error:
            msg = f"{one} was {why}, and it is not there: {error}"
            raise AssertionError(msg) from error

    def writer(self) -> str:
        one = Snapshot(self._chance.randrange(SNAPSHOTS))
        with self._locked(one.number):
            done = self._store(one)
            time.sleep(self._chance.choice((0.0, 0.1, 0.5)))
            self._expect(one, done)
        return done

    def _store(self, one: Snapshot) -> str:
        if self._chance.random() < 0.5:
            with suppress(SnapshotNotFound, IntegrityError):
                published(self._cache, one.manifest.id)
                return "found"
        publish(self._cache, one.manifest, one.contents)
        return "stored"

    def dropper(self) -> str:
        one = Snapshot(self._chance.randrange(SNAPSHOTS))
        with self._locked(one.number):
            trash.drop(self._cache, one.manifest.id)
            time.sleep(self._chance.choice((0.0, 0.2)))
            if self._chance.random() < 0.3:
                trash.undelete(self._cache, one.manifest.id)
                self._expect(one, "brought back")
                return "brought back"
            trash.forget(self._cache, one.manifest.id, before=time.time() + 1e6)
        return "forgotten"

    def reader(self) -> str:
        """A reader takes no lock: it may miss what is being dropped, but never reads wrong bytes."""
        one = Snapshot(self._chance.randrange(SNAPSHOTS))
        try:
            read_snapshot(self._cache, one.manifest.id)
        except (SnapshotNotFound, ObjectNotFound):
            return "missed"
        except IntegrityError as error:
            raise AssertionError(str(error)) from error
        return "read"

    def collection(self) -> str:
        time.sleep(self._chance.choice((0.0, 0.3, 1.0)))
        done = collect(self._cache, options=OPTIONS, deadline=Deadline())
        for what in ("deleted", "spared"):
            if getattr(done, what) != Amount():
                self._tally.write(f"{what} something\n")
        return "collected"


def soak(folder: Path, *, minutes: float, seed: int = 0) -> Counter[str]:
    """Let everybody work for so many *minutes*, then look at everything; what they did is counted, what was lost begins with ``LOST``."""
    chance = random.Random(seed)
    with ExitStack() as running:
        server = running.enter_context(seaweedfs(folder / "store"))
        cache = opened(server.endpoint)
        cache.initialise(lambda store: {"create_only": probe(store, random=cache.random).create_only})
        crew = _Crew(server.endpoint, folder)
        running.callback(crew.stop)
        for role in ROLES:
            crew.start(role)
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end and crew.is_whole:
            time.sleep(chance.uniform(0.5, 4.0))
            if crew.is_whole:
                crew.replace(chance)
        crew.stop()
        tally = Counter(_lines(folder))
        tally["killed"] = crew.killed
        tally.update(f"LOST nothing, but nothing was ever {what}" for what in WORK if not tally[what])
        tally.update(_settle(cache, server.endpoint, folder))
    return tally


class _Crew:
    """The processes, each of which is somebody else's after it was killed."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self._endpoint, self._folder = endpoint, folder
        self._processes: list[tuple[str, Path, subprocess.Popen[bytes]]] = []
        self._started = 0
        self.killed = 0

    def start(self, role: str) -> None:
        self._started += 1
        argv = [sys.executable, "-m", "tests.soak_collect", "--role", role, "--seed", str(self._started)]
        argv += ["--endpoint", self._endpoint, "--folder", str(self._folder)]
        with (self._folder / "errors.txt").open("ab") as errors:
            process = subprocess.Popen(argv, cwd=ROOT, stderr=errors)
        self._processes.append((role, self._folder / f"{role}-{self._started}.log", process))

    @property
    def is_whole(self) -> bool:
        """Whether nobody gave up by himself."""
        return all(process.poll() is None for _, _, process in self._processes)

    def replace(self, chance: random.Random) -> None:
        """Kill one of those that have done something since they were started, and start another in its place."""
        busy = [each for each in self._processes if each[1].exists() and each[1].stat().st_size]
        if not busy:
            return
        role, _, process = victim = chance.choice(busy)
        self._processes.remove(victim)
        process.kill()
        process.wait()
        self.killed += 1
        self.start(role)

    def stop(self) -> None:
        for _, _, process in self._processes:
            process.kill()
            process.wait()


def _lines(folder: Path) -> Iterator[str]:
    for log in folder.glob("*-*.log"):
        yield from log.read_text().splitlines()
    for line in (folder / "errors.txt").read_text(errors="replace").splitlines():
        if "Traceback" in line:
            yield "LOST nothing perhaps, but somebody died of an error: look at errors.txt"


def _settle(cache: ModelCache, endpoint: str, folder: Path) -> Iterator[str]:
    """What is wrong when everything is stored once more, and all garbage should go."""
    for number in range(SNAPSHOTS):
        publish(cache, Snapshot(number).manifest, Snapshot(number).contents)
    hasty = evolve(OPTIONS, intent_age=0.0)
    time.sleep(1.5)  # the clock of a store has whole seconds
    last = [collect(cache, options=hasty, deadline=Deadline()) for _ in range(3)][-1]
    if last.survey.unnamed != Amount():
        yield f"LOST nothing, but garbage stays: {last}"
    for number in range(SNAPSHOTS):
        read_snapshot(cache, Snapshot(number).manifest.id)
    environ = {**os.environ, "HOME": str(folder), "CI_MODELCACHE_STATE": str(folder / "state")}
    argv = [sys.executable, "-m", "ci_modelcache", "verify", "--all", "--store", f"s3://{BUCKET}/{PREFIX}"]
    argv += ["--endpoint-url", endpoint, "--region", REGION]
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout)
    if done.returncode:
        yield f"LOST or damaged, says verify: {done.stdout[-2000:]} {done.stderr[-2000:]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak_collect", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    for internal in ("--role", "--endpoint", "--folder"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = ADMIN
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    if given.role:
        return Worker(given.role, given.endpoint, Path(given.folder), given.seed).run()
    with tempfile.TemporaryDirectory() as folder:
        tally = soak(Path(folder), minutes=given.minutes, seed=given.seed)
    for what, count in sorted(tally.items()):
        sys.stdout.write(f"{count:7} {what}\n")
    return 1 if any(what.startswith("LOST") for what in tally) else 0


if __name__ == "__main__":
    sys.exit(main())
