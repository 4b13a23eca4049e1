"""The only module that says in one word, and in the outputs of a step, what became of a command's models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

LOCAL, HIT, PARTIAL, FETCHED, MISS, SAVED, SKIPPED = "local", "hit", "partial", "fetched", "miss", "saved", "skipped"
_WORST = (LOCAL, HIT, SAVED, SKIPPED, PARTIAL, FETCHED, MISS)
"""From the best to the worst."""
_FAILURES = {10: MISS, 11: "unavailable", 12: "denied", 13: "corrupt", 14: "no-space", 15: "timeout"}
"""The word for an exit code (DESIGN: exit codes)."""
OUTPUTS = ("cache-hit", "result", "path", "paths", "revision", "digest", "bytes-downloaded", "seconds")


@frozen
class ModelOutcome:
    """
    What became of one model; sizes in bytes.

    *upstream* of them came from the Hub or mirrors, by url in *mirrors*. *verified* says by whose word they are right.
    *running* are the files that may run code when they are loaded.
    """

    ref: str
    result: str
    commit: str = ""
    digest: str = ""
    path: str = ""
    source: str = ""
    verified: str = ""
    files: int = 0
    size: int = 0
    received: int = 0
    seconds: float = 0.0
    mirrors: Mapping[str, int] = field(factory=dict)
    running: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def upstream(self) -> int:
        """Bytes that came from the Hub or mirrors."""
        return sum(self.mirrors.values())

    @property
    def hit_ratio(self) -> float:
        """The share of bytes for which nobody upstream was asked, 0 to 1."""
        if not self.size:
            return float(self.result in {LOCAL, HIT})
        return max(0.0, 1 - self.upstream / self.size)


@frozen
class Failure:
    """What ended a command, for people, without secrets."""

    exit_code: int
    message: str
    hint: str = ""


@frozen
class Outcome:
    """
    What became of all *models* of a command, and the *failure* that ended it, if one did.

    *environment* are variables for the next commands of the job.
    """

    models: tuple[ModelOutcome, ...]
    seconds: float
    failure: Failure | None = None
    environment: Mapping[str, str] = field(factory=dict)

    @property
    def result(self) -> str:
        """One word: the failure, or the worst that happened to a model."""
        if self.failure is not None:
            return _FAILURES.get(self.failure.exit_code, "error")
        return max((model.result for model in self.models), key=_WORST.index, default=SKIPPED)

    @property
    def is_hit(self) -> bool:
        """Whether every byte came from the store or was here."""
        return self.failure is None and bool(self.models) and all(one.result in {LOCAL, HIT} for one in self.models)


def outputs_of(outcome: Outcome) -> dict[str, str]:
    """The outputs of a step, all of `OUTPUTS`; those of one model alone are the first model's."""
    first = next(iter(outcome.models), ModelOutcome("", ""))
    return {
        "cache-hit": "true" if outcome.is_hit else "false",
        "result": outcome.result,
        "path": first.path,
        "paths": json.dumps(_paths(outcome.models)),
        "revision": first.commit,
        "digest": first.digest,
        "bytes-downloaded": str(sum(model.received for model in outcome.models)),
        "seconds": f"{outcome.seconds:.1f}",
    }


def _paths(models: Sequence[ModelOutcome]) -> dict[str, str]:
    return {model.ref: model.path for model in models if model.path}
