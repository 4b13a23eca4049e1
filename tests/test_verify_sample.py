"""`verify --sample`: a part of the bytes at a time, until in the end all were read, whatever ends a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import ScrubRecord
from ci_modelcache.errors import AccessDenied, DeadlineExceeded
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import from_json, to_json
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.sample import KEEP_EVERY
from ci_modelcache.verbs.scrub import ScrubOptions, scrub
from tests.parts.stores import Crash, Crashing, Failing, Recording, content, touching
from tests.parts.verbs import REPO, Bench, flipped, swap

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.verbs.verify import VerifyReport

FILES = {f"part-{number:02}.bin": bytes([number]) * (10_000 + number) for number in range(20)}
SIZE = sum(map(len, FILES.values()))
BY_DIGEST = sorted(Digest.of(data).hex for data in FILES.values())


@pytest.fixture
def filled(bench: Bench) -> Bench:
    """A store with twenty blobs of about one length."""
    bench.hub.add_repo(REPO, {"main": FILES})
    bench.fetch()
    return bench


def sampled(bench: Bench, share: float = 0.1, *, shared: bool = True, state: str = "state") -> VerifyReport:
    options = ScrubOptions(share=share, sample=True, shared=shared)
    report = scrub(bench.cache(), step=evolve(bench.step(state=state), workers=1), options=options)
    bench.ledger.check(complete=False)
    return report


def read(recording: Recording) -> list[str]:
    """The digests of the blobs that were read, in that order."""
    return [key.rpartition("/")[2] for key in recording.keys("read") if key.startswith("blobs/")]


def cursor(store: Store) -> ScrubRecord:
    return from_json(content(store, keys.SCRUBBED), ScrubRecord, "the cursor")


def test_samples_go_on_where_the_last_one_ended_until_all_was_read(filled: Bench) -> None:
    seen: list[str] = []
    rounds: list[int] = []
    covered: list[float] = []
    while len(rounds) < 30 and max(rounds, default=1) == 1:
        recording = filled.remotely()
        report = sampled(filled)
        rounds.append(report.round)
        covered.append(report.covered)
        seen += read(recording)
        assert 0 < report.bytes_read <= SIZE / 5
    assert seen[: len(BY_DIGEST)] == BY_DIGEST
    assert 5 <= len(rounds) <= 13
    assert covered[:-1] == sorted(covered[:-1])


def test_a_sample_finds_what_is_wrong_where_it_reads_and_the_whole_structure_besides(filled: Bench) -> None:
    first, last = (
        filled.blob(next(d for d in FILES.values() if Digest.of(d).hex == h)) for h in (BY_DIGEST[0], BY_DIGEST[-1])
    )
    swap(first, flipped(first.read_bytes()))
    last.unlink()
    assert sorted(problem.kind for problem in sampled(filled).problems) == ["missing", "wrong"]
    # The wrong one is not read again before the next round.
    assert [problem.kind for problem in sampled(filled).problems] == ["missing"]


def test_the_smallest_share_reads_one_object_and_the_whole_one_reads_all_once(filled: Bench) -> None:
    assert sampled(filled, 0.0001).blobs <= 1
    recording = filled.remotely()
    report = sampled(filled, 1.0)
    assert sorted(read(recording)) == BY_DIGEST
    assert report.round == 2


def test_where_the_store_may_not_be_written_the_place_is_kept_on_this_machine(filled: Bench) -> None:
    filled.store = Failing(filled.disk, lambda: AccessDenied("read only"), touching("", "write", "delete"))
    before = {info.key for info in filled.disk.scan("")}
    for shared in (True, False, True):
        sampled(filled, shared=shared)
    assert {info.key for info in filled.disk.scan("")} == before
    recording = Recording(filled.disk)
    filled.store = recording
    sampled(filled)
    assert BY_DIGEST.index(read(recording)[0]) >= 3
    # From now on every machine knows it.
    place = cursor(filled.disk)
    filled.store = recording = Recording(filled.disk)
    sampled(filled, state="elsewhere")
    assert min(read(recording)) >= place.following


@pytest.mark.parametrize("broken", [b"", b"{}", to_json(ScrubRecord("../x", 3)), b'{"following":0,"number":0}'])
def test_a_place_that_nobody_can_read_is_the_beginning(filled: Bench, broken: bytes) -> None:
    filled.disk.write(keys.SCRUBBED, [broken], size=len(broken))
    recording = filled.remotely()
    report = sampled(filled)
    assert read(recording)[0] == BY_DIGEST[0]
    assert {problem.what for problem in report.problems} <= {keys.SCRUBBED}
    assert cursor(filled.disk).number == 1


def test_the_same_on_this_machine(filled: Bench) -> None:
    sampled(filled, shared=False)
    (noted,) = (filled.folder / "state" / "scrub").iterdir()
    noted.write_bytes(b"\xff")
    recording = filled.remotely()
    sampled(filled, shared=False)
    assert read(recording)[0] == BY_DIGEST[0]


def test_the_deadline_ends_a_sample_and_the_next_one_goes_on(filled: Bench) -> None:
    spent = Deadline(3600)
    count = 0

    def late(_operation: object) -> bool:
        nonlocal count
        count += 1
        return count > 5

    filled.store = Failing(
        filled.disk, lambda: spent.exceeded("reading"), lambda o: touching("blobs/", "read")(o) and late(o)
    )
    with pytest.raises(DeadlineExceeded):
        sampled(filled, 1.0)
    assert cursor(filled.disk).following > BY_DIGEST[3]
    filled.store = recording = Recording(filled.disk)
    sampled(filled, 0.1)
    assert read(recording)[0] in BY_DIGEST[4:6]


def test_a_killed_sample_goes_on_from_where_it_was_noted_last(filled: Bench) -> None:
    """The process dies at every operation; nothing but the place is written, and the next sample covers the rest."""
    times = iter(range(0, 10**9, int(KEEP_EVERY) + 1))
    clocked = evolve(filled.step(), workers=1, clock=lambda: float(next(times)), retry=RetryPolicy(1))
    options = ScrubOptions(share=1.0, sample=True, shared=True)
    counting = Crashing(filled.disk, at=10**9, moment="before")
    scrub(filled.cache(counting), step=clocked, options=options)
    filled.disk.delete(keys.SCRUBBED)
    before = {info.key for info in filled.disk.scan("")}
    farthest = ""
    for at in range(counting.count - 40, counting.count, 3):
        filled.disk.delete(keys.SCRUBBED)
        crashing = Crashing(filled.disk, at=at, moment="before")
        with pytest.raises(Crash):
            scrub(filled.cache(crashing), step=clocked, options=options)
        assert {info.key for info in filled.disk.scan("")} - before <= {keys.SCRUBBED}
        recording = Recording(filled.disk)
        scrub(filled.cache(recording), step=clocked, options=ScrubOptions(share=0.03, sample=True, shared=True))
        again = read(recording)[0]
        assert again >= farthest or again == BY_DIGEST[0]
        farthest = max(farthest, again)
    assert farthest > BY_DIGEST[5]


def test_a_sample_that_is_killed_leaves_the_store_as_it_was(filled: Bench, tmp_path: Path) -> None:
    """A real process, ended by SIGKILL while it reads an object without end."""
    before = {info.key: info.size for info in filled.disk.scan("")}
    endless = filled.disk.path(keys.blob(Digest("f" * 64)))
    endless.parent.mkdir(parents=True)
    with endless.open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room, and hours to read
    line = ["verify", "--sample", "100%", "--store", str(filled.disk.root)]
    environ = {**os.environ, "CI_MODELCACHE_STATE": str(tmp_path / "killed"), "HF_ENDPOINT": filled.hub.url}
    with subprocess.Popen(
        [sys.executable, "-m", "ci_modelcache", *line], env=environ, stderr=subprocess.DEVNULL
    ) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(5)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    endless.unlink()
    left = {info.key: info.size for info in filled.disk.scan("")}
    assert {key: size for key, size in left.items() if key != keys.SCRUBBED} == before
    report = sampled(filled, 1.0)
    assert (report.problems, report.exit_code) == ((), 0)
