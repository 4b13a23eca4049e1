"""The only module that runs a part of a benchmark in a process of its own, so that it costs those who are measured nothing but cores."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Apart:
    """
    *serve* with *given* in another process, a context manager.

    It is given one end of a pipe first, sends where it can be reached, in `at`, and then an answer to each word. It ends when
    the other end is closed.
    """

    def __init__(self, serve: Callable[..., None], *given: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *given), daemon=True)
        self._process.start()
        theirs.close()
        self.at: Any = self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join()

    def begin(self) -> None:
        """Count from here."""
        self.ask("begin")

    def ask(self, what: str) -> Any:  # noqa: ANN401  # what the other process sends
        """Its answer to *what*."""
        self._pipe.send(what)
        return self._pipe.recv()
