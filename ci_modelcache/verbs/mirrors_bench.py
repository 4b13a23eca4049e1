"""Measure sources of bytes: the same file from each of them alone, and from all of them together as a real step takes it."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from typing import TYPE_CHECKING

from attrs import define, evolve, frozen

from ci_modelcache.errors import DeadlineExceeded, DigestMismatch, FileNotFound, ModelCacheError
from ci_modelcache.model.digest import Digest, verified
from ci_modelcache.model.listing import ListedFile
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.health import FAULTS, Cause, Health, Spread
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.protocol import ByteSource
from ci_modelcache.sources.router import Router, Source
from ci_modelcache.transfer.events import Attempt
from ci_modelcache.transfer.partial import sweep_partials
from ci_modelcache.verbs.measures import share
from ci_modelcache.verbs.mirrors_figures import TOGETHER, BenchReport, SourceBench
from ci_modelcache.verbs.mirrors_samples import liars
from ci_modelcache.verbs.receive import Inbound, receive
from ci_modelcache.verbs.step import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ci_modelcache.model.listing import Listing
    from ci_modelcache.transfer.events import Event, Events
    from ci_modelcache.transfer.partial import Partial

DOWNLOADS = 5
MOST = 64 * 1024 * 1024
"""Bytes of one download: more tells nothing new about a mirror."""


def bench(
    ref: ModelRef,
    *,
    upstream: Mirrors,
    authority: str,
    step: Step,
    downloads: int = DOWNLOADS,
    path: str | None = None,
) -> BenchReport:
    """
    Download one file of *ref*, or its first `MOST` bytes, *downloads* times from each source of *upstream*, then from all.

    The file is *path*, or the largest. What its beginning is, where no more is taken, those alone must agree on, as in `mirrors_samples.liars`
    with the URL of the *authority*. Nothing is kept of it. The sources take turns, so that what slows down the link slows down all; one that
    fails in spite of all retries is not asked again alone. What is measured is remembered as that of any other step. At
    the deadline of *step* the report has what was measured by then. Raises what the authority says about *ref*, and `FileNotFound`.
    """
    started = step.clock()
    commit = upstream.resolve(ref).commit
    task = _Task.of(ref.at(commit), _chosen(upstream.listing(ref, commit), path, ref), step, upstream)
    sources = upstream.router.sources
    alone = [_Series(source.url, [source], task) for source in sources]
    together = _Series(TOGETHER, sources, task)
    stopped: DeadlineExceeded | None = None
    step.progress.start(f"downloading {task.part.path}", task.part.size * downloads * (len(alone) + 1))
    try:
        for _ in range(downloads):
            for series in alone:
                series.download()
        together = _Series(TOGETHER, sources, task.agreed(_agreed(alone, authority)))
        for _ in range(downloads):
            together.download()
    except DeadlineExceeded as error:
        stopped = error
        _agreed(alone, authority)
    finally:
        step.progress.finish()
        sweep_partials(task.folder)
    return _report(ref, task, alone, together, seconds=step.clock() - started, stopped=stopped)


def _chosen(listing: Listing, path: str | None, ref: ModelRef) -> ListedFile:
    for file in listing.files:
        if file.path == path:
            return file
    largest = max((file for file in listing.files if file.size), key=lambda file: (file.size, file.path), default=None)
    if path is not None or largest is None:
        what = "no file that is not empty" if path is None else f"no file {path}"
        msg = f"{ref} has {what}"
        raise FileNotFound(msg, hint=None if largest is None else f"its largest file is {largest.path}")
    return largest


@frozen
class _Beginning:
    """The first bytes of *whole* as *inner* sends it, as if there were no more; a `ByteSource`."""

    inner: ByteSource
    whole: ListedFile

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def sends_ranges(self) -> bool | None:
        return self.inner.sends_ranges

    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        return self.inner.open(ref, commit, self.whole, start=start, stop=file.size if stop is None else stop)


@frozen
class _Task:
    """What every download is: *part* of *whole*; the two are one where the file is small."""

    ref: ModelRef
    whole: ListedFile
    part: ListedFile
    step: Step
    upstream: Mirrors

    @classmethod
    def of(cls, ref: ModelRef, file: ListedFile, step: Step, upstream: Mirrors) -> _Task:
        part = file if file.size <= MOST else ListedFile(file.path, MOST, file.git_oid, None)
        return cls(ref, file, part, step, upstream)

    @property
    def folder(self) -> Path:
        """Where downloads are until they are proven, and thrown away."""
        return self.step.state / "bench"

    @property
    def proves(self) -> bool:
        """Whether it is known what a download must bring."""
        return self.part is self.whole

    def agreed(self, digest: str | None) -> _Task:
        """The same, when *digest* is what a download of a beginning brings."""
        if self.proves or digest is None:
            return self
        return evolve(self, part=evolve(self.part, sha256=Digest(digest), lfs=self.part.lfs))

    def take(self, pieces: Iterator[bytes], _partial: Partial | None) -> str:
        """Consume a download; its SHA-256."""
        hasher = hashlib.sha256()
        checked: Iterable[bytes] = pieces
        if self.proves or self.part.sha256 is not None:
            checked = verified(pieces, self.part.expected, self.part.path)
        for piece in checked:
            hasher.update(piece)
        return hasher.hexdigest()


@define
class _Done:
    """A download that brought *digest* in *seconds*."""

    digest: str
    seconds: float
    sources: dict[str, int]


class _Series:
    """Downloads from *sources*; takes note of every attempt, and passes it on."""

    def __init__(self, name: str, sources: Sequence[Source], task: _Task) -> None:
        self.name = name
        self.done: list[_Done] = []
        self.begun = 0
        self.attempts: list[Attempt] = []
        self.causes: Counter[str] = Counter()
        self.error: ModelCacheError | None = None
        self._task = task
        self._lock = threading.Lock()
        self._passed_on: Events = task.upstream.router.events
        self._sources = sources
        router = task.upstream.router
        self._router = Router(
            [self._as_asked(source) for source in sources],
            connections=router.connections,
            clock=router.clock,
            random=router.random,
            events=self,
        )

    def _as_asked(self, source: Source) -> Source:
        """*source* with connections of its own to count, and the health that is remembered."""
        given = source.bytes if self._task.proves else _Beginning(source.bytes, self._task.whole)
        return Source(given, source.priority, health=source.health)

    def record(self, event: Event) -> None:
        """As `Events` says."""
        if isinstance(event, Attempt) and event.path:
            with self._lock:
                self.attempts.append(event)
                if event.cause != Cause.OK:
                    self.causes[event.cause] += 1
        self._passed_on.record(event)

    def download(self) -> None:
        """One more, unless one has failed; raises what is no fault of a source."""
        if self.error is not None and self.name != TOGETHER:
            return
        task, step = self._task, self._task.step
        inbound = Inbound(task.ref, task.upstream.over(self._router), task.folder, step, fresh=True)
        before = [evolve(source.health) for source in self._sources]
        self.begun += 1
        began = step.clock()
        try:
            received = receive(task.part, inbound, take=task.take)
        except FAULTS as error:
            self._failed(error)
            return
        finally:
            for source, health in zip(self._sources, before, strict=True):
                self._set_right(source.health, health)
        self.done.append(_Done(received.result, step.clock() - began, received.sources))

    def _set_right(self, health: Health, before: Health) -> None:
        """Let nothing be remembered that was so only because this is a measurement."""
        if not self._task.proves:
            # Nobody knows whether these bytes are right, so they count for nobody.
            health.proven = before.proven
        if len(self._sources) == 1 and health.barred_until == before.barred_until:
            # Who had no choice decided nothing.
            health.decided = before.decided

    def _failed(self, error: ModelCacheError) -> None:
        self.error = error
        if isinstance(error, DigestMismatch) and len(self._sources) == 1:
            # Nobody else can have sent that; and no attempt knew it.
            self.causes[Cause.WRONG_BYTES] += 1
            self._router.failed(self._router.sources[0], error, self._task.part.path)

    def expect(self, digest: str) -> None:
        """Every download that has not *digest* is wrong."""
        wrong = [each for each in self.done if each.digest != digest]
        if wrong:
            self.done = [each for each in self.done if each.digest == digest]
            self.causes[Cause.WRONG_BYTES] += len(wrong)
            what = f"the first {self._task.part.size} bytes of {self._task.part.path} from {self.name}"
            self.error = DigestMismatch(what, expected=digest, actual=wrong[0].digest)

    def result(self) -> SourceBench:
        """Its figures."""
        size = self._task.part.size
        speeds = tuple(size / each.seconds for each in self.done if each.seconds > 0)
        ttfbs = tuple(each.first_byte for each in self.attempts if each.first_byte is not None)
        failed = self.begun - len(self.done)
        retries = max(0, sum(each.cause != Cause.OK for each in self.attempts) - failed)
        rate = share(retries, self.begun)
        sources: Counter[str] = Counter()
        for each in self.done:
            sources.update(each.sources)
        return SourceBench(
            source=self.name,
            downloads=self.begun,
            failed=failed,
            received=sum(each.received for each in self.attempts),
            speed=share(size * len(speeds), sum(each.seconds for each in self.done)),
            speed_p50=Spread.of(speeds).p50 if speeds else None,
            speed_p95=Spread.of(speeds).p95 if speeds else None,
            speeds=speeds,
            ttfb_p50=Spread.of(ttfbs).p50 if ttfbs else None,
            ttfb_p95=Spread.of(ttfbs).p95 if ttfbs else None,
            ttfbs=ttfbs,
            causes=dict(self.causes.most_common()),
            retries=retries,
            retry_rate=None if rate is None else 100 * rate,
            sources=dict(sources.most_common()),
            error="" if self.error is None else self.error.message,
        )


def _agreed(alone: Sequence[_Series], authority: str) -> str | None:
    """What those *alone* brought, by its SHA-256, None when nobody can say; whoever brought something else is wrong."""
    brought = {each.name: each.done[0].digest for each in alone if each.done}
    wrong = liars(brought, authority)
    right = next((digest for url, digest in brought.items() if url not in wrong), None)
    for series in alone:
        series.expect(right or "what others send")
    return right


def _report(
    ref: ModelRef,
    task: _Task,
    alone: Sequence[_Series],
    together: _Series,
    *,
    seconds: float,
    stopped: DeadlineExceeded | None,
) -> BenchReport:
    results, mixed = tuple(each.result() for each in alone), together.result()
    fastest = max((each for each in results if each.speeds), key=lambda each: each.speed_p50 or 0.0, default=None)
    failure = stopped or together.error
    return BenchReport(
        ref=str(ref),
        commit=task.ref.revision,
        path=task.part.path,
        size=task.part.size,
        proof="digest" if task.proves else "agreement",
        sources=results,
        together=mixed,
        best=None if fastest is None else fastest.source,
        utilisation=None
        if fastest is None or mixed.speed_p50 is None
        else share(mixed.speed_p50, fastest.speed_p50 or 0),
        seconds=seconds,
        stopped="" if stopped is None else stopped.message,
        exit_code=0 if failure is None else failure.exit_code,
    )
