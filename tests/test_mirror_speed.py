"""
What is about speed, against Hubs in processes of their own and with the windows that users have.

The numbers are promises of the design; each has as much room here as a busy machine needs.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.parts.hub_faults import Drops, Limited, Poison
from tests.parts.upstreams import MEGA, MODEL, Distant, weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.parts.upstreams import MirrorBench, Plan

RATE = 5e6
"""Bytes a second of each connection."""
SIZE = 40 * MEGA


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one large file."""
    folder = tmp_path_factory.mktemp("model")
    (folder / MODEL).write_bytes(weights(SIZE))
    return folder


def start(running: ExitStack, bench: MirrorBench, model: Path, plans: Sequence[Sequence[Plan]]) -> list[Distant]:
    """A mirror for each of *plans*; the last of them is the authority, too."""
    mirrors = [running.enter_context(Distant(model, plan)) for plan in plans]
    bench.mirrors = [mirror.url for mirror in mirrors]
    bench.authority = mirrors[-1].url
    bench.files = {MODEL: (model / MODEL).read_bytes()}
    return mirrors


def test_four_mirrors_are_more_than_three_and_a_half_times_one_connection(
    mirror_bench: MirrorBench, model: Path, tmp_path: Path
) -> None:
    """One connection takes size / rate seconds, however fast its other end; so slow that what it costs to compute is small beside it."""
    (tmp_path / "large").mkdir()
    large, size, rate = tmp_path / "large", 2 * SIZE, 1.5e6
    (large / MODEL).write_bytes((model / MODEL).read_bytes() * 2)
    with ExitStack() as running:
        mirrors = start(running, mirror_bench, large, [[(Limited, {"rate": rate})]] * 4)
        report = mirror_bench.succeeds("restore").snapshot
        assert report["seconds"] <= size / rate / 3.5
        # How large a part is chance, and the business of who else uses this machine.
        assert all(mirror.sent >= MEGA / 4 for mirror in mirrors), "each of them had a part in it"


def test_a_mirror_that_drops_to_50_kb_a_second_is_left_within_ten_seconds(
    mirror_bench: MirrorBench, model: Path
) -> None:
    with ExitStack() as running:
        dropping: list[Plan] = [(Drops, {"after": 2 * MEGA}), (Limited, {"rate": RATE})]
        mirrors = start(running, mirror_bench, model, [dropping, [(Limited, {"rate": RATE})]])
        began = time.monotonic()
        outcome = mirror_bench.succeeds("restore")
        assert time.monotonic() - began < 10 + SIZE / RATE
        left = outcome.attempts(mirrors[0].url)
        # Fast for as long as 2 MB take; then it is watched for a window.
        assert max(each["seconds"] - 2 * MEGA / RATE for each in left) <= 10


def test_a_poisoned_mirror_among_three_costs_at_most_a_part_more_than_the_file(
    mirror_bench: MirrorBench, model: Path
) -> None:
    with ExitStack() as running:
        plain: list[Plan] = [(Limited, {"rate": RATE})]
        mirrors = start(running, mirror_bench, model, [[(Poison, {}), *plain], plain, plain])
        outcome = mirror_bench.succeeds("restore")
        assert f"warning: {mirrors[0].url} sent wrong bytes" in outcome.err
        received = sum(each["received"] for each in outcome.events if each["event"] == "attempt" and each["path"])
        assert received <= SIZE + 4 * 1024 * 1024 + MEGA
