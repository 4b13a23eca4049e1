"""The only module that spares an upstream a question whose answer was a definite no a moment ago."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ci_modelcache.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.model.listing import ListedFile, Listing
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Meaning, RefName, Upstream
    from ci_modelcache.transfer.refusals import Refusals

T = TypeVar("T")


class Sparing:
    """
    The `Upstream` *upstream*, which is not asked again for what is in *refusals*.

    *secret* is the token that it is asked with, or empty: what one user is refused, another may have.
    """

    def __init__(self, upstream: Upstream, refusals: Refusals, *, secret: str = "") -> None:
        self._upstream = upstream
        self._refusals = refusals
        self._secret = secret

    @property
    def url(self) -> str:
        return self._upstream.url

    @property
    def host(self) -> str:
        return self._upstream.host

    @property
    def sends_ranges(self) -> bool | None:
        return self._upstream.sends_ranges

    def resolve(self, ref: ModelRef, *, known: Meaning | None = None, patience: float | None = None) -> Meaning:
        ask = self._upstream.resolve
        return self._spared(f"meaning of {ref}", lambda: ask(ref, known=known, patience=patience))

    def listing(self, ref: ModelRef, commit: str) -> Listing:
        return self._spared(f"listing of {ref.at(commit)}", lambda: self._upstream.listing(ref, commit))

    def branches(self, ref: ModelRef) -> tuple[RefName, ...]:
        return self._spared(f"branches of {ref}", lambda: self._upstream.branches(ref))

    def tags(self, ref: ModelRef) -> tuple[RefName, ...]:
        return self._spared(f"tags of {ref}", lambda: self._upstream.tags(ref))

    @contextmanager
    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        question = self._question(f"{file.path} of {ref.at(commit)}")
        self._refusals.recall(question)
        try:
            with self._upstream.open(ref, commit, file, start=start, stop=stop) as pieces:
                self._refusals.forget(question)
                yield pieces
        except NotFound as error:
            self._refusals.keep(question, error)
            raise

    def _spared(self, what: str, ask: Callable[[], T]) -> T:
        question = self._question(what)
        self._refusals.recall(question)
        try:
            answer = ask()
        except NotFound as error:
            self._refusals.keep(question, error)
            raise
        self._refusals.forget(question)
        return answer

    def _question(self, what: str) -> str:
        return f"{self.url}\n{self._secret}\n{what}"
