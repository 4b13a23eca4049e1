"""The only module that carries a case out: inputs, Hubs, clients in turn, and what came of it."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import frozen

from benchmarks.mirrors.cases import Case
from benchmarks.mirrors.clients import Order, download, judged
from benchmarks.mirrors.entries import Run
from benchmarks.mirrors.hubs import FarHub
from benchmarks.mirrors.targets import Verdict, ends

_SETTLE = 0.05
"""Seconds in which a Hub that sends freely notices that its client is gone, and stops counting."""


@frozen
class Measured:
    """The *runs* of *case*, by label of the entry, and what is said to them."""

    case: Case
    runs: Mapping[str, Sequence[Run]]
    verdicts: Sequence[Verdict]

    @property
    def met(self) -> bool:
        """Whether all that was promised was kept."""
        return all(verdict.met for verdict in self.verdicts)


def measure(case: Case) -> Measured:
    """Carry *case* out: its entries in turn, so that a busy moment hits all of them."""
    runs: dict[str, list[Run]] = {entry.label: [] for entry in case.entries}
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        inputs = Path(name) / "inputs"
        digests = make_inputs(inputs, size=case.size, files=case.files)
        hubs = [opened.enter_context(FarHub(inputs, plan, watched_after=case.watched_after)) for plan in case.hubs]
        for _ in range(case.rounds):
            for entry in case.entries:
                order = Order(entry, [hub.url for hub in hubs], Path(name) / "run", case.patience)
                runs[entry.label].append(_run(case, order, hubs, digests))
                shutil.rmtree(order.folder)
    verdicts = [*ends(case.entries, runs), *(target.judge(runs, case.size) for target in case.targets)]
    return Measured(case, runs, verdicts)


def make_inputs(folder: Path, *, size: int, files: int) -> dict[str, str]:
    """Fill *folder* with *files* of together *size* random bytes, the same each time; returns path to SHA-256."""
    folder.mkdir()
    seeded = random.Random(size)  # noqa: S311  # to be the same each time, not to be secret
    digests = {}
    for number in range(files):
        name = "model.safetensors" if files == 1 else f"model-{number + 1:05}-of-{files:05}.safetensors"
        content = seeded.randbytes(size // files)
        (folder / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    return digests


def _run(case: Case, order: Order, hubs: Sequence[FarHub], digests: Mapping[str, str]) -> Run:
    for hub in hubs:
        hub.begin()
    if case.killed_at is not None:
        enough = case.killed_at * case.size
        download(order, until=lambda: sum(hub.tally.sent for hub in hubs) >= enough)
        time.sleep(_SETTLE)
    done = download(order)
    time.sleep(_SETTLE)
    tallies = [hub.tally for hub in hubs]
    bad = tallies[0]
    sent = tuple(tally.sent for tally in tallies)
    return Run(
        ended=judged(done, order, digests),
        exit=done.status,
        error=done.error,
        named=order.urls[0] in done.said,
        seconds=done.seconds,
        transfer=done.transfer,
        cpu=done.cpu,
        hubs_cpu=sum(tally.cpu for tally in tallies),
        busy=done.busy,
        sent=sent,
        requests=sum(tally.requests for tally in tallies),
        left=None if not case.watched_after or bad.dropped is None or bad.last is None else bad.last - bad.dropped,
        again=None if case.killed_at is None else max(0, sum(sent) - case.size),
    )
