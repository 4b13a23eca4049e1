"""Jobs that want the same: one fetches it, the others wait for what it stores; nobody waits for the dead, and no lease is ever in the way."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ci_modelcache.cache.leases import Lease, Standing
from ci_modelcache.cache.pace import Pace
from ci_modelcache.cli.main import main
from ci_modelcache.demo.exchange import CDN
from ci_modelcache.errors import AccessDenied, DeadlineExceeded, NoSpace, SnapshotNotFound, Unavailable
from ci_modelcache.model.ref import RepoType, SnapshotId
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.turns import turn
from tests.parts.cached import SNAPSHOT, cache_in
from tests.parts.clocks import Clock
from tests.parts.documents import ROOT
from tests.parts.hub import TINY
from tests.parts.hub_faults import Limited, naming
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, S3Server, login
from tests.parts.stores import Failing, IgnoringCreateOnly, MemoryStore, touching
from tests.parts.verbs import REPO, Bench, files_in, pinned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ci_modelcache.demo.hub import LoopbackHub
    from ci_modelcache.errors import ModelCacheError
    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.verbs.step import Step

SIZE = sum(map(len, TINY.values()))
LEASES = touching("leases/")
KEY = "leases/v1/"


def lease(store: Store, seed: bytes = b"one", *, pace: Pace | None = None) -> Lease:
    """The lease of a snapshot as a job of its own sees it."""
    return Lease(cache_in(store, seed=seed), SNAPSHOT, pace=pace)


def key_of(store: Store) -> str:
    """The key of the only lease in *store*."""
    (found,) = store.scan(KEY)
    return found.key


# --- a lease


def test_who_takes_a_lease_has_it_and_others_see_that_until_it_is_given_back() -> None:
    store = MemoryStore()
    mine, other = lease(store, b"mine"), lease(store, b"other")
    assert mine.look(0) is Standing.FREE
    mine.take()
    assert (mine.look(0), other.look(0)) == (Standing.OURS, Standing.HELD)
    assert other.holder == mine.holder != ""
    with mine.kept():
        assert other.look(0) is Standing.HELD
    assert (mine.look(0), other.look(0)) == (Standing.FREE, Standing.FREE)
    assert other.holder == ""


def test_of_two_that_find_no_lease_one_gets_it() -> None:
    store = MemoryStore()
    one, two = lease(store, b"one"), lease(store, b"two")
    assert (one.look(0), two.look(0)) == (Standing.FREE, Standing.FREE)
    one.take()
    two.take()
    assert (one.look(0), two.look(0)) == (Standing.OURS, Standing.HELD)


def test_on_a_store_that_ignores_create_only_the_last_who_wrote_has_it_alone() -> None:
    store = IgnoringCreateOnly(MemoryStore())
    jobs = [lease(store, bytes([number])) for number in range(5)]
    for job in jobs:
        assert job.look(0) is Standing.FREE
    for job in jobs:
        job.take()
    assert [job.look(0) for job in jobs] == [Standing.HELD] * 4 + [Standing.OURS]


def test_a_lease_that_stays_the_same_for_long_on_the_clock_of_who_looks_is_that_of_a_dead_job() -> None:
    store = MemoryStore()
    lease(store, b"dead").take()
    early, late = lease(store, b"early"), lease(store, b"late")
    assert [early.look(1e6 + seconds) for seconds in (0, 44.9, 45)] == [Standing.HELD, Standing.HELD, Standing.DEAD]
    assert [late.look(seconds) for seconds in (7, 51.9, 52)] == [Standing.HELD, Standing.HELD, Standing.DEAD]


def test_a_lease_that_is_renewed_lives_for_ever() -> None:
    store = MemoryStore()
    holder, other = lease(store, b"holder"), lease(store, b"other")
    holder.take()
    for seconds in range(0, 1000, 40):
        assert other.look(seconds) is Standing.HELD
        assert holder._is_renewed()
    assert other.look(1000) is Standing.HELD


def test_who_was_taken_for_dead_neither_renews_nor_removes_the_lease_of_the_next() -> None:
    store = MemoryStore()
    stopped, next_one = lease(store, b"stopped"), lease(store, b"next")
    stopped.take()
    with stopped.kept():
        assert (next_one.look(0), next_one.look(45)) == (Standing.HELD, Standing.DEAD)
        next_one.take()
        assert next_one.look(45) is Standing.OURS
        assert not stopped._is_renewed()
    assert next_one.look(45) is Standing.OURS


def test_a_holder_says_that_it_lives_while_it_works_and_stops_when_it_fails() -> None:
    store = MemoryStore()
    holder = lease(store, b"holder", pace=Pace(beat=0.01))
    holder.take()
    first = store.objects[key_of(store)]

    def work() -> None:
        while store.objects[key_of(store)] == first:
            threading.Event().wait(0.01)
        raise KeyError

    with pytest.raises(KeyError), holder.kept():
        work()
    assert list(store.scan(KEY)) == []


@pytest.mark.parametrize(
    "error", [AccessDenied("read-only"), NoSpace("full"), Unavailable("down"), DeadlineExceeded("over")]
)
def test_where_no_lease_can_be_written_there_is_none_and_nothing_fails(
    error: ModelCacheError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ci_modelcache.cache.leases")
    store = Failing(MemoryStore(), lambda: error, touching("leases/", "write"))
    mine = lease(store)
    assert mine.look(0) is Standing.FREE
    mine.take()
    assert mine.look(0) is Standing.FREE
    assert f"going on without a lease: {error}" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_a_lease_that_may_not_be_read_is_none() -> None:
    inner = MemoryStore()
    lease(inner, b"other").take()
    assert lease(Failing(inner, lambda: AccessDenied("no"), LEASES)).look(0) is Standing.FREE


def test_what_is_no_lease_is_waited_for_as_one_and_then_replaced() -> None:
    store = MemoryStore()
    lease(store, b"other").take()
    store.objects[key_of(store)] = b"something else"
    mine = lease(store, b"mine")
    assert (mine.look(0), mine.holder, mine.look(45)) == (Standing.HELD, "", Standing.DEAD)
    mine.take()
    assert mine.look(45) is Standing.OURS


def test_a_failure_to_renew_or_to_remove_is_no_failure_of_the_work() -> None:
    inner = MemoryStore()
    holder = lease(inner, b"holder")
    holder.take()
    broken = Lease(cache_in(Failing(inner, lambda: Unavailable("down"), LEASES), seed=b"holder"), SNAPSHOT)
    assert broken._is_renewed()
    with broken.kept():
        pass
    assert len(list(inner.scan(KEY))) == 1


def test_each_commit_and_selection_has_a_lease_of_its_own() -> None:
    store = MemoryStore()
    for snapshot in (
        SnapshotId("h", RepoType.MODEL, "o/n", "a" * 40, "all"),
        SnapshotId("h", RepoType.MODEL, "o/n", "b" * 40, "all"),
        SnapshotId("h", RepoType.MODEL, "o/n", "a" * 40, Selection(include=("*.json",)).id),
        SnapshotId("h", RepoType.DATASET, "o/n", "a" * 40, "all"),
    ):
        mine = Lease(cache_in(store), snapshot)
        assert mine.look(0) is Standing.FREE
        mine.take()
        assert mine.look(0) is Standing.OURS


def test_a_folder_needs_no_second_look_and_a_store_that_nobody_tried_does(tmp_path: Path) -> None:
    assert lease(DirectoryStore(tmp_path, create=True)).is_atomic
    store = MemoryStore()
    assert not lease(store).is_atomic
    for said in ("atomic", "racy", "ignored"):
        store.objects.clear()
        cache_in(store).initialise(lambda _, said=said: {"create_only": said})  # type: ignore[misc]  # the loop's own value
        assert lease(store).is_atomic == (said == "atomic")


# --- waiting for one's turn


class Waiting(Bench):
    """A bench whose waits take no time: *meanwhile* lists what happens in the first pauses, one after the other."""

    def begin(self) -> None:
        self.clock = Clock()
        self.meanwhile: list[Callable[[], object]] = []
        self.other = Lease(self.cache(), self.snapshot())
        self.other.take()

    def snapshot(self, selection: str = "all") -> SnapshotId:
        return SnapshotId(self.host, RepoType.MODEL, REPO, self.commit, selection)

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        if self.meanwhile:
            self.meanwhile.pop(0)()

    def step(self, *, retry: RetryPolicy | None = None, state: str = "state") -> Step:
        return evolve(super().step(retry=retry or self.patient(), state=state), clock=self.clock)

    def patient(self, seconds: float | None = None) -> RetryPolicy:
        return RetryPolicy(2, base=0.001, deadline=Deadline(seconds, clock=self.clock), sleep=self.sleep)

    def stored_by_other(self) -> None:
        """The other job does its work; then its lease is gone."""
        Bench(self.hub, self._session, self.folder).fetch(pinned(self), force=True)
        self.gives_up()

    def gives_up(self) -> None:
        self.other._remove()

    def lives(self) -> None:
        assert self.other._is_renewed()

    def takes_over(self) -> None:
        """Yet another job has the lease now."""
        self.gives_up()
        self.other = Lease(self.cache(), self.snapshot())
        self.other.take()


@pytest.fixture
def waiting(bench: Bench) -> Waiting:
    made = Waiting(bench.hub, bench._session, bench.folder)
    made.begin()
    return made


@pytest.mark.parametrize("saves", [True, False])
def test_a_restore_takes_from_the_store_what_another_job_was_fetching(
    waiting: Waiting, caplog: pytest.LogCaptureFixture, *, saves: bool
) -> None:
    waiting.meanwhile = [waiting.lives, waiting.lives, waiting.stored_by_other]
    report = waiting.restore(save=saves)
    assert (report.result, report.source, report.anchor) == ("hit", str(waiting.disk.root), "store")
    assert files_in(waiting.folder / "model") == TINY
    assert waiting.hub.sent == SIZE
    assert [message for message in caplog.messages if "another job" in message] == [
        f"another job is fetching {REPO}; waiting for it"
    ]
    assert len(waiting.clock.slept) == 3
    assert all(1 <= pause <= 3 for pause in waiting.clock.slept)
    waiting.check_invariants()


def test_a_fetch_waits_too_and_has_nothing_to_do_then(waiting: Waiting) -> None:
    waiting.meanwhile = [waiting.stored_by_other]
    report = waiting.fetch()
    assert (report.result, report.bytes_downloaded, report.anchor) == ("hit", 0, "store")
    assert waiting.hub.sent == SIZE


def test_a_part_that_another_job_stores_as_a_part_of_the_whole_is_found(waiting: Waiting) -> None:
    some = Selection(include=("*.json",))
    waiting.gives_up()
    waiting.other = Lease(waiting.cache(), waiting.snapshot(some.id))
    waiting.other.take()
    waiting.meanwhile = [waiting.stored_by_other]
    assert waiting.restore(selection=some).result == "hit"
    assert waiting.hub.sent == SIZE


def test_a_dead_job_delays_the_next_by_no_more_than_the_time_after_which_it_counts_as_dead(waiting: Waiting) -> None:
    report = waiting.restore()
    assert report.result == "miss"
    assert report.saved
    assert 45 <= sum(waiting.clock.slept) <= 45 + 3 + 2
    assert list(waiting.disk.scan(KEY)) == []


def test_who_only_reads_asks_upstream_when_the_holder_is_dead_and_nobody_takes_over(waiting: Waiting) -> None:
    report = waiting.restore(save=False)
    assert (report.result, report.saved) == ("miss", False)
    assert 45 <= sum(waiting.clock.slept) <= 45 + 3 + 3
    assert len(list(waiting.disk.scan(KEY))) == 1


def test_who_only_reads_waits_for_the_job_that_takes_over(waiting: Waiting) -> None:
    waiting.meanwhile = [waiting.gives_up, waiting.takes_over, waiting.stored_by_other]
    assert waiting.restore(save=False).result == "hit"
    assert waiting.hub.sent == SIZE


def test_who_only_reads_does_not_wait_when_nobody_is_at_work_and_leaves_no_lease(waiting: Waiting) -> None:
    waiting.gives_up()
    assert waiting.restore(save=False).result == "miss"
    assert waiting.clock.slept == []
    assert list(waiting.disk.scan("")) == []


def test_nobody_waits_in_a_long_row_for_what_cannot_be_stored(waiting: Waiting) -> None:
    """Each of many jobs would download it all, one after the other."""
    waiting.meanwhile = [waiting.takes_over, waiting.takes_over, waiting.takes_over]
    report = waiting.restore()
    assert report.result == "miss"
    assert report.saved
    assert len(waiting.clock.slept) == 2
    assert waiting.other.look(0) is Standing.OURS


def test_a_job_that_ended_between_the_last_look_and_the_lease_is_believed(waiting: Waiting) -> None:
    waiting.gives_up()
    looks: list[str] = []

    def look() -> str:
        looks.append("")
        if len(looks) == 1:
            return "there"
        raise SnapshotNotFound("not reached")

    with turn(waiting.snapshot(), look, cache=waiting.cache(), step=waiting.step(), saves=True) as found:
        assert found == ("there",)
    assert waiting.clock.slept == []


@pytest.mark.parametrize("options", [{"fail_on_miss": True}, {"upstream": "offline"}])
def test_who_may_not_ask_upstream_does_not_wait(waiting: Waiting, options: dict[str, object]) -> None:
    given = {**options, **({"upstream": waiting.offline} if "upstream" in options else {})}
    with pytest.raises(SnapshotNotFound):
        waiting.restore(pinned(waiting), **given)  # type: ignore[arg-type]  # one of two options
    with pytest.raises(SnapshotNotFound):
        waiting.fetch(pinned(waiting), upstream=waiting.offline)
    assert waiting.clock.slept == []


def test_by_force_nobody_is_waited_for(waiting: Waiting) -> None:
    assert waiting.restore(force=True).result == "miss"
    assert waiting.fetch(force=True).result == "miss"
    assert waiting.clock.slept == []


def test_a_deadline_ends_the_wait_and_says_for_whom_it_was(waiting: Waiting) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        waiting.restore(step=waiting.step(retry=waiting.patient(20)))
    assert caught.value.exit_code == 15
    said = (
        f"the deadline of 20s passed while waiting for another job, {waiting.other._name[:8]}, that is fetching {REPO}"
    )
    assert said in str(caught.value)
    assert sum(waiting.clock.slept) == pytest.approx(20)


@pytest.mark.parametrize("fault", [Failing, "readonly"])
def test_a_store_that_takes_no_leases_is_filled_without(waiting: Waiting, fault: object) -> None:
    waiting.gives_up()
    where = LEASES if fault is Failing else touching("", "write", "delete")
    waiting.store = Failing(waiting.disk, lambda: AccessDenied("denied"), where)
    report = waiting.restore()
    assert (report.result, report.saved) == ("miss", fault is Failing)
    assert waiting.hub.sent == SIZE
    # The second look that a store of unknown talents gets is all the time that this took.
    assert sum(waiting.clock.slept) <= 1.5


def test_a_lease_that_is_lost_on_the_way_costs_nothing_else(waiting: Waiting) -> None:
    waiting.gives_up()

    def robbed() -> None:
        (found,) = waiting.disk.scan(KEY)
        waiting.disk.delete(found.key)
        waiting.other = Lease(waiting.cache(), waiting.snapshot())
        waiting.other.take()

    with turn(waiting.snapshot(), _nothing, cache=waiting.cache(), step=waiting.step(), saves=True) as found:
        assert found == ()
        robbed()
        assert waiting.fetch(force=True).result == "miss"
    assert waiting.other.look(0) is Standing.OURS
    waiting.gives_up()
    waiting.check_invariants()


def _nothing() -> str:
    raise SnapshotNotFound("not there")


@pytest.mark.parametrize("failure", [SnapshotNotFound("gone"), KeyboardInterrupt()])
def test_a_holder_that_fails_gives_the_lease_back_at_once(waiting: Waiting, failure: BaseException) -> None:
    waiting.gives_up()

    def work() -> None:
        assert len(list(waiting.disk.scan(KEY))) == 1
        raise failure

    mine = turn(waiting.snapshot(), _nothing, cache=waiting.cache(), step=waiting.step(), saves=True)
    with pytest.raises(type(failure)), mine:
        work()
    assert list(waiting.disk.scan(KEY)) == []


# --- real processes


class Jobs:
    """Starts real jobs that restore `REPO` from *hub* by way of one store, each into a folder of its own."""

    def __init__(self, hub: LoopbackHub, store: Sequence[str], folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self._options = [*store, "--endpoint", hub.url, "--json"]
        (folder / "jobs").mkdir()

    def start(
        self,
        name: str,
        *arguments: str,
        count: int = 1,
        dead: float = 30,
        credentials: tuple[str, str] = ADMIN,
    ) -> subprocess.Popen[str]:
        """Begin *count* jobs in a process each; *name* names their folder."""
        line = [*(arguments or ("restore", REPO)), "--to", f"{self.folder}/jobs/{name}", *self._options]
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": credentials[0],
            "AWS_SECRET_ACCESS_KEY": credentials[1],
            "CI_MODELCACHE_STATE": str(self.folder / f"state-{name}"),
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "tests.parts.hurried", str(dead), str(count), *line],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def crowd(self, count: int) -> list[dict[str, Any]]:
        """The reports of *count* jobs that began at the same moment, all of which succeeded."""
        process = self.start("{n}", count=count)
        codes, said = process.communicate(timeout=280)
        errors = [(self.folder / f"{number}.err").read_text() for number in range(count)]
        assert codes.split() == ["0"] * count, (said, errors)
        for number in range(count):
            assert files_in(self.folder / "jobs" / str(number)) == TINY
        outputs = [json.loads((self.folder / f"{number}.out").read_text()) for number in range(count)]
        return [output["snapshots"][0] for output in outputs]

    def ended(self, process: subprocess.Popen[str], name: str) -> dict[str, Any]:
        """The report of the job *name*, which succeeded."""
        out, said = process.communicate(timeout=110)
        assert process.returncode == 0, said
        assert files_in(self.folder / "jobs" / name) == TINY
        report: dict[str, Any] = json.loads(out)["snapshots"][0]
        return report

    def wait_for_a_file(self) -> None:
        """Return when somebody has asked the Hub for the content of a file."""
        end = time.monotonic() + 60
        while not self.hub.requests(within="/cdn/"):
            assert time.monotonic() < end, "nobody asked for a file"
            time.sleep(0.02)

    def sent(self) -> Counter[str]:
        """How many bytes the Hub sent of each file."""
        found: Counter[str] = Counter()
        for seen in self.hub.requests(method="GET"):
            if seen.status in {200, 206} and (seen.server == CDN or "/resolve" in seen.target):
                found[seen.target.partition("?")[0]] += seen.sent
        return +found

    def check_sent_once(self) -> None:
        """The Hub has sent each byte of each file once, and of the files as many as there are."""
        assert sorted(self.sent().values()) == sorted(len(data) for data in TINY.values() if data)
        assert self.hub.sent == SIZE


def is_waiting(process: subprocess.Popen[str]) -> bool:
    """Return when *process* says that it waits for another job."""
    assert process.stderr is not None
    said = next((line for line in process.stderr if "another job is fetching" in line), "")
    assert said.endswith(f"another job is fetching {REPO}; waiting for it\n")
    return True


@pytest.fixture(params=["seaweedfs", "folder"])
def jobs(request: pytest.FixtureRequest, hub: LoopbackHub, tmp_path: Path) -> Jobs:
    if request.param == "folder":
        return Jobs(hub, ["--store", str(tmp_path / "store")], tmp_path)
    return Jobs(hub, bucket(request.getfixturevalue("seaweedfs_server"), tmp_path), tmp_path)


def bucket(server: S3Server, folder: Path) -> list[str]:
    """The options of a store in the bucket of *server* that nobody else uses."""
    prefix = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return ["--store", f"s3://{BUCKET}/{prefix}", "--endpoint-url", server.endpoint, "--region", REGION]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [2, 20])
def test_of_many_jobs_that_begin_at_one_moment_one_asks_upstream(jobs: Jobs, count: int) -> None:
    """A matrix on a cold store."""
    jobs.hub.faults.append(Limited(rate=200e3, when=naming("/cdn/")))
    reports = jobs.crowd(count)
    assert Counter(report["result"] for report in reports) == {"miss": 1, "hit": count - 1}
    jobs.check_sent_once()


@pytest.mark.timeout(300)
def test_when_the_holder_is_killed_another_takes_over_and_the_rest_wait_for_that_one(jobs: Jobs) -> None:
    jobs.hub.faults.append(Limited(rate=2e3, when=naming("/cdn/")))
    holder = jobs.start("holder")
    jobs.wait_for_a_file()
    waiters = {name: jobs.start(name, dead=5) for name in ("one", "two")}
    assert all(map(is_waiting, waiters.values()))
    holder.kill()
    holder.communicate(timeout=60)
    jobs.hub.faults.clear()
    jobs.hub.forget()
    reports = [jobs.ended(process, name) for name, process in waiters.items()]
    assert sorted(report["result"] for report in reports) == ["hit", "miss"]
    assert max(jobs.sent().values()) <= max(map(len, TINY.values()))


@pytest.mark.timeout(300)
def test_on_a_store_that_ignores_create_only_every_job_gets_the_right_bytes(
    hub: LoopbackHub, rclone_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    jobs = Jobs(hub, store := bucket(rclone_server, tmp_path), tmp_path)
    reports = jobs.crowd(4)
    assert {report["result"] for report in reports} <= {"hit", "miss"}
    assert main(["verify", *store]) == 0


@pytest.mark.timeout(300)
def test_a_job_that_may_not_write_waits_for_one_that_does(
    hub: LoopbackHub, seaweedfs_server: S3Server, tmp_path: Path
) -> None:
    jobs = Jobs(hub, bucket(seaweedfs_server, tmp_path), tmp_path)
    hub.faults.append(Limited(rate=30e3, when=naming("/cdn/")))
    holder = jobs.start("holder")
    jobs.wait_for_a_file()
    readers = {
        "denied": jobs.start("denied", credentials=READER),
        "told": jobs.start("told", "restore", REPO, "--mode", "read", credentials=READER),
    }
    assert all(map(is_waiting, readers.values()))
    hub.faults.clear()
    assert jobs.ended(holder, "holder")["result"] == "miss"
    assert [jobs.ended(process, name)["result"] for name, process in readers.items()] == ["hit", "hit"]
    jobs.check_sent_once()


@pytest.mark.timeout(300)
def test_a_job_whose_time_is_over_while_it_waits_exits_with_15_and_says_so(jobs: Jobs) -> None:
    jobs.hub.faults.append(Limited(rate=2e3, when=naming("/cdn/")))
    holder = jobs.start("holder")
    try:
        jobs.wait_for_a_file()
        late = jobs.start("late", "restore", REPO, "--deadline", "10s")
        out, said = late.communicate(timeout=110)
        assert late.returncode == 15, said
        assert "the deadline of 10s passed while waiting for another job, " in json.loads(out)["error"]["message"]
        assert f"that is fetching {REPO} into " in said
    finally:
        holder.kill()
        holder.communicate(timeout=60)
