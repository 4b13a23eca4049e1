"""A Hub, a store, a state folder and a step, in one hand; and what must hold whatever a verb met."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ci_modelcache.cache.modelcache import ModelCache
from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.sources.offline import Offline
from ci_modelcache.sources.token import Token
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.fetch import FetchReport, fetch
from ci_modelcache.verbs.lock import LockReport, lock
from ci_modelcache.verbs.restore import RestoreReport, restore
from ci_modelcache.verbs.save import SaveReport, save
from ci_modelcache.verbs.step import Step
from ci_modelcache.verbs.wanted import RestoreOptions
from tests.parts.stores import Passing, Recording, content

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ci_modelcache.demo.hub import LoopbackHub
    from ci_modelcache.demo.repository import Repository
    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.model.project import ProjectModel
    from ci_modelcache.sources.http import HttpSession
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.stores.protocol import Store
    from tests.parts.stores import Operation, Where

REPO = "acme/tiny"
SECRET = "hf_reader"
STAGED = ".landing-"


class Meanwhile(Passing):
    """Calls *happen* before every operation that is *where*: what goes on beside a verb."""

    def __init__(self, store: Store, happen: Callable[[], object], where: Where) -> None:
        super().__init__(store)
        self._happen, self._where = happen, where

    def before(self, operation: Operation) -> None:
        if self._where(operation):
            self._happen()


class Ledger:
    """Progress that is checked: every start has a finish, nothing is ever below zero or above its total."""

    def __init__(self) -> None:
        self.works: list[tuple[str, int, int]] = []
        """What was done, its total, and how much of it was done at the end."""
        self.lowest = 0
        self.over = 0
        self._now: list[tuple[str, int]] = []
        self._done = 0
        self._lock = threading.Lock()

    def start(self, doing: str, total: int) -> None:
        with self._lock:
            self._now.append((doing, total))
            self._done = 0

    def advance(self, count: int) -> None:
        with self._lock:
            if not self._now:
                return  # a worker that was left behind at the deadline
            self._done += count
            self.lowest = min(self.lowest, self._done)
            self.over = max(self.over, self._done - self._now[-1][1])

    def finish(self) -> None:
        with self._lock:
            doing, total = self._now.pop()
            self.works.append((doing, total, self._done))

    def check(self, *, complete: bool = True) -> None:
        """Everything that was started ended, and with *complete* reached its total."""
        assert not self._now
        assert self.lowest >= 0
        assert self.over <= 0
        if complete:
            assert [(doing, total) for doing, total, _ in self.works] == [
                (doing, done) for doing, _, done in self.works
            ]


class Bench:
    """Everything that a verb needs; *store* may be replaced. Whatever is made is below *folder*."""

    def __init__(self, hub: LoopbackHub, session: HttpSession, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.pauses: list[float] = []
        self.ledger = Ledger()
        self.time = 1_800_000_000.0
        self.disk = DirectoryStore(folder / "store", create=True)
        self.store: Store = self.disk
        self._session = session

    # --- collaborators

    def upstream(self, token: str | None = None, *, seconds: float = 30, attempts: int = 4) -> HubEndpoint:
        retry = self.retry(seconds=seconds, attempts=attempts)
        return HubEndpoint(
            self.hub.url, session=self._session, token=None if token is None else Token(token), retry=retry
        )

    @property
    def offline(self) -> Offline:
        """The same Hub, never asked."""
        return Offline(self.upstream().host)

    @property
    def host(self) -> str:
        return self.upstream().host

    def retry(self, *, seconds: float = 30, attempts: int = 4) -> RetryPolicy:
        return RetryPolicy(attempts, base=0.001, cap=0.01, deadline=Deadline(seconds), sleep=self.pauses.append)

    def cache(self, store: Store | None = None) -> ModelCache:
        return ModelCache(store or self.store, retry=self.retry(), now=lambda: self.time)

    def step(self, *, retry: RetryPolicy | None = None, state: str = "state") -> Step:
        self.ledger = Ledger()
        return Step(self.folder / state, retry=retry or self.retry(), progress=self.ledger, workers=4)

    def plain(self, name: str = "model") -> PlainLayout:
        return PlainLayout(self.folder / name)

    def hub_cache(self, name: str = "hf", *, ref: ModelRef | None = None) -> HubCacheLayout:
        ref = ref or ModelRef(REPO)
        return HubCacheLayout(self.folder / name, ref.repo, ref.type)

    def remotely(self) -> Recording:
        """From now on the store is seen as one elsewhere: nothing of it can be linked. Returns the record of what was asked."""
        recording = Recording(self.disk)
        self.store = recording
        return recording

    # --- verbs

    def restore(
        self,
        ref: str | ModelRef = REPO,
        layout: Layout | None = None,
        *,
        upstream: Upstream | None = None,
        step: Step | None = None,
        **options: Any,
    ) -> RestoreReport:
        return restore(
            ModelRef.parse(ref) if isinstance(ref, str) else ref,
            layout or self.plain(),
            cache=self.cache(),
            upstream=upstream or self.upstream(),
            step=step or self.step(),
            options=RestoreOptions(**options),
        )

    def fetch(
        self,
        ref: str = REPO,
        *,
        upstream: Upstream | None = None,
        selection: Selection | None = None,
        force: bool = False,
    ) -> FetchReport:
        return fetch(
            ModelRef.parse(ref),
            selection=selection or Selection(),
            cache=self.cache(),
            upstream=upstream or self.upstream(),
            step=self.step(),
            force=force,
        )

    def save(self, directory: Path, ref: str = "acme/saved@v1", *, selection: Selection | None = None) -> SaveReport:
        return save(
            directory,
            ModelRef.parse(ref),
            host=self.host,
            selection=selection or Selection(),
            cache=self.cache(),
            step=self.step(),
        )

    def lock(
        self, models: Sequence[ProjectModel], *, upgrade: bool = False, upstream: Upstream | None = None
    ) -> LockReport:
        return lock(
            models,
            self.lock_path,
            upgrade=upgrade,
            cache=self.cache(),
            upstream=upstream or self.upstream(),
            step=self.step(),
        )

    @property
    def lock_path(self) -> Path:
        return self.folder / "modelcache.lock"

    # --- facts

    @property
    def repository(self) -> Repository:
        return next(iter(self.hub._routes.repositories.values()))

    @property
    def commit(self) -> str:
        """What ``main`` of the Hub's first repository means."""
        return self.repository.branches["main"]

    def blob(self, data: bytes) -> Path:
        """Where the store has *data*, or would have it."""
        digest = hashlib.sha256(data).hexdigest()
        return self.disk.root / f"blobs/sha256/{digest[:2]}/{digest[2:4]}/{digest}"

    def ref_file(self) -> Path:
        """The only ref in the store."""
        (found,) = (self.disk.root / "refs").rglob("*.json")
        return found

    def check_invariants(self) -> None:
        """Nothing half made, no blob under a name that is not its own, no intent left, no secret in the store."""
        assert list(self.folder.rglob(f"*{STAGED}*")) == []
        for info in self.disk.scan(""):
            data = content(self.disk, info.key)
            assert SECRET.encode() not in data
            if info.key.startswith(("blobs/", "manifests/", "leaves/")):
                assert hashlib.sha256(data).hexdigest() == info.key.rpartition("/")[2], info.key
        assert list(self.disk.scan("intents/")) == []


@pytest.fixture
def bench(hub: LoopbackHub, session: HttpSession, tmp_path: Path) -> Bench:
    return Bench(hub, session, tmp_path)


def files_in(folder: Path) -> dict[str, bytes]:
    """Path to bytes of every file below *folder*, which must all be regular, or links to regular files."""
    return {path: (folder / path).read_bytes() for path in names_in(folder)}


def names_in(folder: Path) -> list[str]:
    """The paths of `files_in`, of which some may be taken away before they are read."""
    found = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return [path.relative_to(folder).as_posix() for path in found]


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def spoil(path: Path, *, at: int = 0) -> None:
    """Flip one bit of the file at *path* in place: its inode, size, mode and mtime stay."""
    seen = path.stat()
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    path.chmod(stat.S_IMODE(seen.st_mode))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def swap(path: Path, data: bytes) -> None:
    """Put another file with *data* in the place of *path*: other names of the old one keep their bytes."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


def flipped(data: bytes) -> bytes:
    """*data* with one bit wrong."""
    return bytes([data[0] ^ 1]) + data[1:]


def pinned(bench: Bench) -> str:
    """``acme/tiny`` at its commit: a reference that needs nobody to say what it means."""
    return f"{REPO}@{bench.commit}"
