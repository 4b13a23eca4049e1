"""
What restore and fetch do when upstreams are flaky, slow, stale, dead or lying: with one source, and with three of which the first is bad.

Command lines are run as users run them, against Hubs on real sockets. What must hold after every run is in `MirrorBench.check`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from ci_modelcache.demo.exchange import Fault
from ci_modelcache.transfer.partial import PREFIX
from tests.parts.hub_faults import (
    Dies,
    Drops,
    Flipped,
    HangUp,
    IgnoredRange,
    Limited,
    OverLong,
    Poison,
    ResetAtShare,
    RetryAfterDate,
    Silence,
    StaleCommit,
    Stall,
    Status,
    TooManyRequests,
    Truncated,
    WebPage,
    WrongEtag,
    always,
)
from tests.parts.upstreams import MEGA, MODEL, REPO, TOKENS, hubs, weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ci_modelcache.demo.hub import LoopbackHub
    from tests.parts.upstreams import MirrorBench, Outcome

pytestmark = pytest.mark.usefixtures("quick")

SIZE = 5 * MEGA
FILES = {MODEL: weights(SIZE)}
"""One file, so that it is certain who is asked for it first."""
OLDER = {MODEL: weights(SIZE, seed=2)}
DEADLINE = 4
"""Seconds in which, on a busy machine too, the first source is known to be of no use, and its attempts are not used up."""
LATE = 10
"""Seconds by which a busy machine may be late; who keeps to no deadline takes far longer than both, or ends otherwise."""
MIXED = {
    "config.json": b'{"model_type": "bert"}\n',
    "empty.txt": b"",
    "nested/vocab.txt": b"".join(b"%d\n" % number for number in range(20_000)),
    "model.safetensors": weights(300_000),
    "onnx/model.onnx": weights(300_000, seed=3),
}


@frozen
class Case:
    """
    *faults* of a Hub; *one* is the exit code when it is the only source of bytes.

    *cause* is how the attempts at it ended by the report; None where it does nothing that need end one. A single source is
    waited for at least *waits* seconds: what it asked for, less a second that may have passed before its answer was read.
    """

    name: str
    faults: Callable[[], list[Fault]]
    cause: str | None
    one: int = 0
    waits: float = 0.0


CASES = (
    Case("one 429, in seconds", lambda: [TooManyRequests(retry_after="2", times=1)], "rate-limited", waits=1),
    Case("one 429, as a date", lambda: [RetryAfterDate(seconds=3, times=1)], "rate-limited", waits=1),
    Case("five 503", lambda: [Status(status=503, times=5)], "unavailable"),
    Case("503 for ever", lambda: [Status(status=503)], "unavailable", one=11),
    Case("reset at 0 %", lambda: [ResetAtShare(share=0, times=1)], "broken-off"),
    Case("reset at 1 %", lambda: [ResetAtShare(share=0.01, times=1)], "broken-off"),
    Case("reset at 50 %", lambda: [ResetAtShare(share=0.5, times=1)], "broken-off"),
    Case("reset at 99 %", lambda: [ResetAtShare(share=0.99, times=1)], "broken-off"),
    Case("ends quietly at 50 %", lambda: [Truncated(keep=SIZE // 2, matching=False, times=1)], "broken-off"),
    Case("stalls for ever", lambda: [Stall(after=2 * MEGA, times=1)], "stalled"),
    Case("never answers", lambda: [Silence(times=1)], "stalled"),
    Case("ignores ranges", lambda: [IgnoredRange()], None),
    Case("truncated", lambda: [Truncated(keep=MEGA)], "wrong-length", one=13),
    Case("truncated once", lambda: [Truncated(keep=MEGA, times=1)], "wrong-length"),
    Case("too long", lambda: [OverLong(extra=1000)], "wrong-length", one=13),
    Case("too long, unannounced", lambda: [OverLong(extra=1000, announced=False)], None),
    Case("a web page", lambda: [WebPage()], "wrong-answer", one=13),
    Case("a web page once", lambda: [WebPage(times=1)], "wrong-answer"),
    Case("a wrong ETag", lambda: [WrongEtag()], "wrong-answer", one=13),
    Case("one wrong byte", lambda: [Flipped(at=MEGA // 2)], None, one=13),
    Case("one wrong byte once", lambda: [Flipped(at=MEGA // 2, times=1)], None),
    Case("dead from the start", lambda: [HangUp()], "broken-off", one=11),
    Case("dies in mid-file", lambda: [Dies(after=1), Truncated(keep=SIZE // 2, matching=False)], "broken-off", one=11),
)


def use(bench: MirrorBench, found: list[LoopbackHub], files: Mapping[str, bytes]) -> None:
    """The last of *found* is the authority, the others are mirrors, most wanted first; each has a token of its own."""
    *mirrors, authority = found
    for hub, token in zip(found, TOKENS, strict=False):
        bench.entrust(hub.url, token)
    bench.mirrors = [hub.url for hub in mirrors]
    bench.authority = authority.url
    bench.files = files


@pytest.fixture
def three(mirror_bench: MirrorBench) -> Iterator[list[LoopbackHub]]:
    """Two mirrors and the authority, all with `FILES`."""
    with hubs(3, FILES) as found:
        use(mirror_bench, found, FILES)
        yield found


@pytest.fixture
def one(mirror_bench: MirrorBench) -> Iterator[LoopbackHub]:
    """The authority alone, with `FILES`."""
    with hubs(1, FILES) as found:
        use(mirror_bench, found, FILES)
        yield found[0]


def mend(found: list[LoopbackHub]) -> None:
    """Nothing is broken any more."""
    for hub in found:
        hub.faults.clear()


def error_of(outcome: Outcome) -> str:
    """What a user is told at the end, notes and hint included."""
    _, found, words = outcome.err.partition("error: ")
    assert found, outcome
    return words


def warned(outcome: Outcome, url: str) -> str:
    """The warnings on stderr that name *url* alone and first, joined."""
    return "\n".join(line for line in outcome.err.splitlines() if f"warning: {url} " in line)


DROPS = Case("drops to 50 KB/s", lambda: [Drops(after=SIZE - 250_000)], "stalled")

verbs = pytest.mark.parametrize("verb", ["restore", "fetch"])


def each(*cases: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


# --- each fault, with one source and with three


@verbs
@each(*CASES)
def test_one_source_is_waited_for_resumed_or_read_again_as_long_as_that_may_help(
    verb: str, case: Case, one: LoopbackHub, mirror_bench: MirrorBench
) -> None:
    one.faults += case.faults()
    outcome = mirror_bench.run(verb)
    assert outcome.code == case.one, outcome
    mirror_bench.check(outcome)
    if case.cause is not None:
        assert outcome.attempts(one.url, case.cause), outcome
    if case.one:
        assert one.url in error_of(outcome)
    assert sum(each["seconds"] for each in outcome.waited()) >= case.waits
    mend([one])
    mirror_bench.succeeds(verb)


@pytest.mark.usefixtures("unshared")
@verbs
@each(*CASES, DROPS)
def test_of_three_sources_the_bad_one_is_named_and_the_others_are_enough(
    verb: str, case: Case, three: list[LoopbackHub], mirror_bench: MirrorBench
) -> None:
    guilty, *others = three
    guilty.faults += case.faults()
    outcome = mirror_bench.succeeds(verb)
    # 1. Who is bad is known, by its own name.
    if case.cause is not None:
        assert outcome.attempts(guilty.url, case.cause), outcome
        assert guilty.url in outcome.attempts(guilty.url, case.cause)[0]["error"]
    if case.one and case.cause is None:
        assert "sent wrong bytes" in warned(outcome, guilty.url)
    # 2. Nobody else is blamed, and nobody is waited for.
    for other in others:
        assert [each["cause"] for each in outcome.attempts(other.url) if each["cause"] != "ok"] == []
        assert not warned(outcome, other.url)
    assert outcome.waited() == []
    mend(three)
    mirror_bench.succeeds(verb)


@each(
    *(
        case
        for case in CASES
        if case.name in {"five 503", "a web page", "dead from the start"}  # whatever file it is asked for
    )
)
def test_small_files_come_from_others_too(case: Case, mirror_bench: MirrorBench) -> None:
    with hubs(3, MIXED) as found:
        use(mirror_bench, found, MIXED)
        found[0].faults += case.faults()
        outcome = mirror_bench.succeeds("restore")
        assert outcome.attempts(found[0].url, str(case.cause)), outcome
        mend(found)
        mirror_bench.succeeds("fetch")


# --- what only a comparison shows


@pytest.fixture
def stale(mirror_bench: MirrorBench) -> Iterator[tuple[list[LoopbackHub], str]]:
    """Three Hubs whose ``main`` moved from `OLDER` to `FILES`, which have one size; and the older commit."""
    with hubs(3, OLDER) as found:
        use(mirror_bench, found, FILES)
        older = ""
        for hub in found:
            repository = next(iter(hub._routes.repositories.values()))
            older = repository.branches["main"]
            repository.commit(FILES)
        yield found, older


@verbs
@pytest.mark.parametrize("honest", [True, False], ids=["says so", "does not say so"])
def test_a_mirror_of_another_commit_is_left_and_named(
    verb: str, stale: tuple[list[LoopbackHub], str], mirror_bench: MirrorBench, *, honest: bool
) -> None:
    found, older = stale
    guilty = found[0]
    guilty.faults.append(StaleCommit(commit=older, honest=honest))
    outcome = mirror_bench.succeeds(verb)
    if honest:
        (attempt,) = outcome.attempts(guilty.url)
        assert attempt["cause"] == "wrong-answer"
        assert older in attempt["error"]
    else:
        assert "sent wrong bytes" in warned(outcome, guilty.url)
    mend(found)
    mirror_bench.succeeds(verb)


@verbs
@pytest.mark.parametrize("honest", [True, False], ids=["says so", "does not say so"])
def test_another_commit_from_the_only_source_is_no_success(
    verb: str, stale: tuple[list[LoopbackHub], str], mirror_bench: MirrorBench, *, honest: bool
) -> None:
    found, older = stale
    mirror_bench.mirrors = []
    found[-1].faults.append(StaleCommit(commit=older, honest=honest))
    assert found[-1].url in error_of(mirror_bench.fails(13, verb))
    mend(found)
    mirror_bench.succeeds(verb)


@verbs
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_wrong_byte_of_a_large_file_is_found_whoever_sends_it(
    verb: str, position: int, mirror_bench: MirrorBench
) -> None:
    large = {MODEL: weights(20 * MEGA)}
    with hubs(3, large) as found:
        use(mirror_bench, found, large)
        # Connections that are slow enough that all three are at work; who sends the byte is a matter of luck then.
        for hub in found:
            hub.faults.append(Limited(rate=20e6))
        found[position].faults.append(Flipped(at=9 * MEGA))
        outcome = mirror_bench.succeeds(verb)
        guilty = [hub.url for hub in found if "sent wrong bytes" in warned(outcome, hub.url)]
        assert guilty in ([], [found[position].url])


def test_a_poisoned_mirror_is_named_and_its_bytes_are_not_among_those_that_count(mirror_bench: MirrorBench) -> None:
    large = {MODEL: weights(20 * MEGA)}
    with hubs(3, large) as found:
        use(mirror_bench, found, large)
        found[0].faults.append(Poison())
        outcome = mirror_bench.succeeds("restore")
        assert "sent wrong bytes" in warned(outcome, found[0].url)
        (done,) = (each for each in outcome.events if each["event"] == "file")
        assert found[0].url not in done["sources"]
        assert sum(done["sources"].values()) == 20 * MEGA


# --- who is dead


@verbs
def test_when_all_are_dead_each_of_them_is_named(
    verb: str, three: list[LoopbackHub], mirror_bench: MirrorBench
) -> None:
    for hub in three:
        hub.faults.append(Status(status=503))
    words = error_of(mirror_bench.fails(11, verb))
    assert all(hub.url in words for hub in three), words
    mend(three)
    mirror_bench.succeeds(verb)


def locked(bench: MirrorBench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project with a lock of `REPO`; the store and the state that it took to make it are gone."""
    project = bench.folder / "project"
    project.mkdir()
    (project / "modelcache.toml").write_text(f'[[models]]\nrepo = "{REPO}"\n')
    monkeypatch.chdir(project)
    assert bench.command("lock", "--store", bench.folder / "store-of-the-lock").code == 0
    bench.state.rename(bench.folder / "state-of-the-lock")
    return project


def test_with_a_lock_nobody_asks_an_authority_that_is_dead(
    three: list[LoopbackHub], mirror_bench: MirrorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked(mirror_bench, monkeypatch)
    authority = three[-1]
    authority.forget()
    authority.faults.append(HangUp(when=always))
    snapshot = mirror_bench.succeeds("restore", "--locked").snapshot
    assert snapshot["anchor"] == "lock"
    assert authority.requests() == []


def test_with_a_lock_and_no_authority_at_all_the_mirrors_are_enough(
    three: list[LoopbackHub], mirror_bench: MirrorBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its port is closed; and the first mirror is broken, too."""
    locked(mirror_bench, monkeypatch)
    three[-1].__exit__(None, None, None)
    three[0].faults.append(ResetAtShare(share=0.5))
    assert mirror_bench.succeeds("restore", "--locked").snapshot["anchor"] == "lock"


@verbs
def test_without_a_lock_a_dead_authority_is_an_outage_although_mirrors_are_alive(
    verb: str, three: list[LoopbackHub], mirror_bench: MirrorBench
) -> None:
    three[-1].faults.append(Status(status=503, when=always))
    words = error_of(mirror_bench.fails(11, verb))
    assert three[-1].url in words
    assert "--trust-mirror-metadata" in words
    mend(three)
    mirror_bench.succeeds(verb)


def test_a_mirror_is_believed_in_place_of_a_dead_authority_when_the_user_says_so_and_only_then(
    three: list[LoopbackHub], mirror_bench: MirrorBench
) -> None:
    three[-1].faults.append(Status(status=503, when=always))
    outcome = mirror_bench.succeeds("restore", "--trust-mirror-metadata")
    assert outcome.snapshot["anchor"] == "mirror"
    assert three[0].url in warned_of_metadata(outcome)


def warned_of_metadata(outcome: Outcome) -> str:
    return "\n".join(line for line in outcome.err.splitlines() if "warning:" in line and "believing" in line)


# --- slowness and time


def test_where_everybody_is_slow_nobody_is_left_for_another(
    three: list[LoopbackHub], mirror_bench: MirrorBench
) -> None:
    """A slow link: each connection brings the same little, several windows long."""
    for hub in three:
        hub.faults.append(Limited(rate=300_000))
    outcome = mirror_bench.succeeds("restore")
    assert not [each for each in outcome.events if each["event"] == "attempt" and each["cause"] == "stalled"]


def test_on_a_very_slow_link_each_source_is_tried_once_and_then_the_best_is_kept(mirror_bench: MirrorBench) -> None:
    little = {MODEL: weights(200_000)}
    with hubs(3, little) as found:
        use(mirror_bench, found, little)
        for hub in found:
            hub.faults.append(Drops(rate=50_000))
        outcome = mirror_bench.succeeds("restore")
        assert len([each for each in outcome.events if each["event"] == "attempt" and each["cause"] == "stalled"]) <= 2


def test_one_slow_source_is_better_than_none(one: LoopbackHub, mirror_bench: MirrorBench) -> None:
    """It is asked again where it got slow, once, and kept when that does not help."""
    one.faults += DROPS.faults()
    outcome = mirror_bench.succeeds("restore")
    causes = [each["cause"] for each in outcome.attempts(one.url)]
    assert causes[-1] == "ok"
    assert set(causes) <= {"stalled", "ok"}
    assert causes.count("stalled") <= 2


@verbs
@pytest.mark.parametrize(
    "fault",
    [lambda: Stall(after=1000), lambda: Limited(rate=20_000), lambda: TooManyRequests(retry_after="3000")],
    ids=["stalled", "slow", "asked to wait"],
)
def test_the_deadline_is_kept_and_says_where_the_time_went(
    verb: str, fault: Callable[[], Fault], three: list[LoopbackHub], mirror_bench: MirrorBench
) -> None:
    for hub in three:
        hub.faults.append(fault())
    began = time.monotonic()
    words = error_of(mirror_bench.fails(15, verb, deadline=f"{DEADLINE}s"))
    assert time.monotonic() - began < DEADLINE + LATE
    assert "where the time went: " in words
    assert three[0].url in words.partition("where the time went: ")[2]
    mend(three)
    # What was asked for holds in the next run, too: nobody who said "in 50 minutes" is asked now.
    if not isinstance(fault(), TooManyRequests):
        mirror_bench.succeeds(verb)


@verbs
def test_an_authority_that_never_answers_costs_no_more_than_the_deadline_and_is_named(
    verb: str, three: list[LoopbackHub], mirror_bench: MirrorBench
) -> None:
    three[-1].faults.append(Silence(when=always))
    began = time.monotonic()
    assert three[-1].url in error_of(mirror_bench.fails(15, verb, deadline=f"{DEADLINE}s"))
    assert time.monotonic() - began < DEADLINE + LATE


def test_a_mirror_that_ignores_ranges_is_enough_when_nobody_else_is_left(
    three: list[LoopbackHub], mirror_bench: MirrorBench
) -> None:
    """Half of the file is here already: the half that it sends again is thrown away."""
    good, *others = three
    good.faults += [Dies(after=1), Truncated(keep=SIZE // 2, matching=False)]
    for hub in others:
        hub.faults.append(HangUp())
    mirror_bench.fails(11, "restore")
    (kept,) = (path for path in mirror_bench.folder.rglob(f"{PREFIX}*.log"))
    assert good.url in kept.read_text()
    good.forget()
    good.faults[:] = [IgnoredRange()]
    outcome = mirror_bench.succeeds("restore")
    assert good.sent >= SIZE
    assert 0 < outcome.snapshot["bytes_downloaded"] < SIZE
