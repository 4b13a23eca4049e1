"""What is held against the sources of one file: how often each failed, until when it waits, and why it is not asked any more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import define, field

from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DigestMismatch,
    FileNotFound,
    IntegrityError,
    Misanswer,
    ModelCacheError,
    NotFound,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from ci_modelcache.sources.router import Source

_WORST_FIRST: tuple[type[ModelCacheError], ...] = (IntegrityError, Unavailable, AccessDenied, ConfigError, NotFound)


@runtime_checkable
class Skipping(Protocol):
    """A source that can be told to read past what nobody wants, when it does not send ranges and nobody else is left."""

    strict_ranges: bool


@define
class _Trial:
    """How one source did with this file."""

    failures: int = 0
    """In a row, since the last byte."""
    outages: int = 0
    """All of them; who began before the last was counted adds nothing."""
    lies: int = 0
    waits_until: float = 0.0
    last: ModelCacheError | None = None
    verdict: ModelCacheError | None = None
    """Why it is not asked any more."""
    aside: str = ""
    """Why it probably lies, until that is decided."""
    doubt: str = ""
    """Why it lied, if right bytes can be had from others: it is not asked once more to find out."""
    relented: bool = False
    """Whether it was given another chance already: one that answers so again has had it."""


@define(eq=False)
class Trials:
    """
    All that is held against *sources* about the file called *what*; a source gets *attempts*, counted since its last byte.

    Methods may be called from any thread. Times are those of `Router.clock`.
    """

    sources: tuple[Source, ...]
    what: str
    attempts: int
    _trials: dict[str, _Trial] = field(factory=dict)
    _lock: threading.Lock = field(factory=threading.Lock)
    _begun_again: bool = False

    @property
    def barred(self) -> frozenset[str]:
        """URLs of the sources that are not asked for this file any more."""
        with self._lock:
            return frozenset(url for url, trial in self._trials.items() if trial.verdict is not None)

    @property
    def last_outage(self) -> Unavailable:
        """What a source that is waited for said."""
        with self._lock:
            found = [trial.last for trial in self._trials.values() if isinstance(trial.last, Unavailable)]
        return found[-1] if found else Unavailable(f"every source of {self.what} asked to be left alone")

    def last(self, url: str) -> ModelCacheError:
        """The last thing that the source at *url* did wrong; raises `KeyError` when there was none."""
        with self._lock:
            error = self._trials[url].last
        if error is None:
            raise KeyError(url)
        return error

    def waits_until(self, url: str) -> float:
        """When the source at *url* may be asked again."""
        with self._lock:
            trial = self._trials.get(url)
            return 0.0 if trial is None else trial.waits_until

    def outages(self, url: str) -> int:
        """What to tell `failed` of an attempt that begins now."""
        with self._lock:
            return self._of(url).outages

    def progressed(self, url: str) -> None:
        """The source at *url* has sent something."""
        with self._lock:
            self._of(url).failures = 0

    def failed(self, url: str, error: ModelCacheError, *, outages: int | None = None) -> int:
        """
        The source at *url* did wrong; returns its failures in a row when it may be asked again after a pause, else 0.

        *outages* is what `outages` said when the attempt began (None: just now). A server that restarts breaks all its
        connections at once, which is one failure.
        One of many is left at once when it answers wrongly. The only one gets another chance: a bit that flipped on the way is
        right next time.
        """
        with self._lock:
            trial = self._of(url)
            trial.last = error
            if isinstance(error, Unavailable):
                if outages is not None and outages < trial.outages:
                    return trial.failures
                trial.failures, trial.outages = trial.failures + 1, trial.outages + 1
                if trial.failures < self.attempts:
                    return trial.failures
                error.add_note(f"gave up fetching {self.what} after {trial.failures} attempts")
                trial.verdict = error
                return 0
            trial.lies += isinstance(error, IntegrityError)
            if not isinstance(error, IntegrityError) or trial.lies > 1 or len(self.sources) > 1:
                trial.verdict = error
            return 0

    def waits(self, url: str, until: float) -> None:
        """The source at *url* is not asked before *until*."""
        with self._lock:
            self._of(url).waits_until = until

    # --- when nobody is left

    def relent(self) -> bool:
        """
        Whether somebody is asked now, once more, who was barred for less than a failure.

        That is who ignored ranges, to send all from the beginning; and who was only suspected, as those who were believed
        instead are of no use: what they sent stays, and the digest decides.
        """
        with self._lock:
            for source in self.sources:
                trial = self._of(source.url)
                ignores = _is_about_ranges(trial.verdict) and isinstance(source.bytes, Skipping)
                if trial.relented or not (ignores or trial.aside):
                    continue
                if ignores and isinstance(source.bytes, Skipping):
                    source.bytes.strict_ranges = False
                trial.verdict, trial.aside, trial.lies, trial.relented = None, "", 0, True
            # Not only those of this call: another connection may have asked just before.
            return any(self._of(source.url).verdict is None for source in self.sources)

    def verdict(self) -> ModelCacheError:
        """The error to raise when every source is barred: wrong answers before outages, outages before refusals, misses last."""
        with self._lock:
            verdicts = [trial.verdict for trial in self._trials.values() if trial.verdict is not None]
        if len(verdicts) == 1:
            return verdicts[0]
        kind = next(kind for kind in _WORST_FIRST if any(isinstance(each, kind) for each in verdicts))
        worst = next(each for each in verdicts if isinstance(each, kind))
        said = "; ".join(error.message for error in verdicts)
        general = FileNotFound if kind is NotFound else kind
        return general(f"none of {len(verdicts)} sources has sent {self.what}: {said}", hint=worst.hint)

    # --- lies

    def set_aside(self, url: str, why: str) -> None:
        """The source at *url* probably lies: it is not asked for this file any more, unless the others turn out to lie."""
        with self._lock:
            trial = self._of(url)
            trial.aside, trial.verdict = why, self.lie(url, why)

    def convict(self, url: str, error: IntegrityError) -> None:
        """The source at *url* lied, which is proven."""
        with self._lock:
            trial = self._of(url)
            trial.aside, trial.doubt, trial.verdict = "", "", error

    def suspects(self) -> dict[str, str]:
        """Those that lied, if the file is right now, and why."""
        with self._lock:
            found = {url: trial.aside or trial.doubt for url, trial in self._trials.items()}
            return {url: why for url, why in found.items() if why}

    def lie(self, url: str, why: str) -> DigestMismatch:
        """The error that says so."""
        return DigestMismatch(f"{self.what} from {url}", expected="what others send", actual=why)

    def begin_again(self, wrong: IntegrityError, senders: Collection[str]) -> bool:
        """
        Whether it is worth to fetch all once more: from those that were set aside, or from the only source there is, once.

        The *senders* of what is *wrong* now, by URL, are not asked any more; they agree with each other.
        """
        with self._lock:
            aside = {url for url, trial in self._trials.items() if trial.aside}
            if not aside:
                again, self._begun_again = not self._begun_again, True
                return again
            for url in aside:
                self._of(url).aside, self._of(url).verdict = "", None
            for url in senders:
                self._of(url).doubt = f"what came from it alone is wrong: {wrong.message}"
                self._of(url).verdict = wrong
            return True

    def _of(self, url: str) -> _Trial:
        return self._trials.setdefault(url, _Trial())


def _is_about_ranges(error: ModelCacheError | None) -> bool:
    return isinstance(error, Misanswer) and error.about == "range"
