"""What is remembered of mirrors between runs: by several processes at once, for a month, and never at the cost of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.sources.health import Cause, Health
from ci_modelcache.sources.standing import Standing
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_800_000_000.0
DAY = 86_400.0
URL = "https://a.example"


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirrors.json"


def asked(health: Health, *, now: float, received: int = 2_000_000, seconds: float = 1.0) -> Health:
    health.measured(first_byte=0.1, received=received, seconds=seconds, now=now)
    return health


def test_what_one_run_measured_the_next_one_knows(path: Path, clock: Clock) -> None:
    health = asked(Health(), now=NOW)
    health.failed(Cause.RATE_LIMITED, now=NOW, retry_after=20)
    health.failed(Cause.WRONG_BYTES, now=NOW)
    health.found_right(1000)
    Standing(path, clock=clock).save({URL: health})
    assert Standing(path, clock=clock).load() == {URL: health}
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_who_began_with_the_same_lose_nothing_of_each_other(path: Path, clock: Clock) -> None:
    Standing(path, clock=clock).save({URL: asked(Health(), now=NOW)})
    first, second = Standing(path, clock=clock), Standing(path, clock=clock)
    one, other = first.load(), second.load()
    asked(one[URL], now=NOW + 1)
    one[URL].failed(Cause.BROKEN_OFF, now=NOW + 1)
    one["https://only-first.example"] = asked(Health(), now=NOW + 1)
    asked(other[URL], now=NOW + 2)
    asked(other[URL], now=NOW + 3)
    other[URL].failed(Cause.BROKEN_OFF, now=NOW + 3)
    other[URL].failed(Cause.WRONG_BYTES, now=NOW + 3)
    clock.now = NOW + 10
    first.save(one)
    second.save(other)
    known = Standing(path, clock=clock).load()
    assert set(known) == {URL, "https://only-first.example"}
    assert known[URL].attempts == 1 + 1 + 2
    assert known[URL].received == 4 * 2_000_000
    assert known[URL].failures == {"broken-off": 2, "wrong-bytes": 1}
    assert known[URL].barred_until == NOW + 3 + 30
    assert known[URL].seen == NOW + 3


def test_what_was_saved_is_not_added_once_more_by_the_next_save(path: Path, clock: Clock) -> None:
    standing = Standing(path, clock=clock)
    seen = {URL: asked(Health(), now=NOW)}
    for _ in range(3):
        standing.save(seen)
    assert Standing(path, clock=clock).load()[URL].attempts == 1


_WORKER = """
import sys, time
from pathlib import Path
from ci_modelcache.sources.health import Health
from ci_modelcache.sources.standing import Standing
standing = Standing(Path(sys.argv[1]), clock=lambda: 1_800_000_000.0)
known = standing.load()
for _ in range(20):
    health = known.setdefault("https://a.example", Health())
    health.measured(first_byte=0.1, received=1_000, seconds=0.1, now=1_800_000_000.0)
    standing.save(known)
"""


def test_processes_that_write_at_the_same_time_lose_nothing(path: Path, clock: Clock) -> None:
    command = [sys.executable, "-c", _WORKER, str(path)]
    workers = [subprocess.Popen(command, cwd=Path(__file__).parent.parent) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    known = Standing(path, clock=clock).load()
    assert known[URL].attempts == 60
    assert known[URL].received == 60_000


def _changed(change: Callable[[dict[str, object]], object]) -> bytes:
    health = {
        "first_byte": 0.1,
        "speed": 1.0,
        "first_bytes": [],
        "speeds": [],
        "attempts": 1,
        "received": 1,
        "proven": 0,
        "failures": {},
        "last_limited": None,
        "limited_until": 0.0,
        "blame": 0.0,
        "barred_until": 0.0,
        "barred": 0,
        "seen": NOW,
        "decided": "asked: the fastest",
    }
    change(health)
    return json.dumps({"format": 1, "mirrors": {URL: health}}).encode()


def test_the_file_that_the_next_test_changes_is_believed_unchanged(path: Path, clock: Clock) -> None:
    path.write_bytes(_changed(lambda _: None))
    assert Standing(path, clock=clock).load()[URL].attempts == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"format": 2, "mirrors": {}}',
        b'{"format": 1}',
        b'{"format": 1, "mirrors": []}',
        b'{"format": 1, "mirrors": {"https://a.example": 5}}',
        b"[" * 100_000,
        _changed(lambda health: health.pop("seen")),
        _changed(lambda health: health.pop("decided")),
        _changed(lambda health: health.update(speed=-1)),
        _changed(lambda health: health.update(speed="fast")),
        _changed(lambda health: health.update(speed=float("nan"))),
        _changed(lambda health: health.update(barred_until=float("inf"))),
        _changed(lambda health: health.update(speeds={"a": 1})),
        _changed(lambda health: health.update(failures=[1])),
        _changed(lambda health: health.update(attempts=True)),
    ],
)
def test_a_file_that_makes_no_sense_counts_as_nothing_and_is_replaced(content: bytes, path: Path, clock: Clock) -> None:
    path.write_bytes(content)
    standing = Standing(path, clock=clock)
    assert standing.load() == {}
    standing.save({URL: asked(Health(), now=NOW)})
    assert Standing(path, clock=clock).load()[URL].attempts == 1


def test_who_was_not_asked_for_thirty_days_is_forgotten(path: Path, clock: Clock) -> None:
    standing = Standing(path, clock=clock)
    standing.save({"https://old.example": asked(Health(), now=NOW), URL: asked(Health(), now=NOW + DAY)})
    clock.now = NOW + 30 * DAY - 1
    standing.save({})
    assert set(Standing(path, clock=clock).load()) == {"https://old.example", URL}
    clock.now = NOW + 30 * DAY
    standing.save({})
    assert set(Standing(path, clock=clock).load()) == {URL}


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_bytes(b"")
    standing = Standing(tmp_path / "file" / "mirrors.json", clock=clock)
    standing.save({URL: asked(Health(), now=NOW)})
    assert standing.load() == {}
