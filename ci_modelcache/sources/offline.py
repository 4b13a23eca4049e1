"""The upstream of a step that may not ask anybody: every question is a miss, and no socket is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ci_modelcache.errors import SnapshotNotFound

if TYPE_CHECKING:
    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Meaning


class Offline:
    """Implements `Upstream` for the authority called *host*; *why* is said in every error."""

    sends_ranges: bool | None = None

    def __init__(self, host: str, *, why: str = "--offline is set") -> None:
        self.host = host
        self._why = why
        self.url = f"nobody ({why})"

    def _miss(self, ref: ModelRef, *, part: str = "") -> NoReturn:
        msg = f"{part}{ref} is not in the store, and {self.host} may not be asked: {self._why}"
        raise SnapshotNotFound(
            msg, hint="fetch it first where the network may be used: ci-modelcache fetch " + str(ref)
        )

    def resolve(
        self,
        ref: ModelRef,
        *,
        known: Meaning | None = None,  # noqa: ARG002  # the protocol's
        patience: float | None = None,  # noqa: ARG002  # as above
    ) -> NoReturn:
        self._miss(ref)

    def listing(self, ref: ModelRef, commit: str) -> NoReturn:
        self._miss(ref.at(commit))

    def branches(self, ref: ModelRef) -> NoReturn:
        self._miss(ref)

    def tags(self, ref: ModelRef) -> NoReturn:
        self._miss(ref)

    def open(
        self,
        ref: ModelRef,
        commit: str,
        file: ListedFile,
        *,
        start: int = 0,  # noqa: ARG002  # the protocol's
        stop: int | None = None,  # noqa: ARG002  # as above
    ) -> NoReturn:
        self._miss(ref.at(commit), part=f"{file.path} of ")
