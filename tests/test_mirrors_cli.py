"""``ci-modelcache mirrors``, ``mirrors check`` and ``mirrors bench``, against Hubs on loopback that go wrong in their own ways."""

from __future__ import annotations

import json
import random
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

import ci_modelcache.cli.upstreams  # noqa: F401  # what `quick` changes is to be loaded by then
from ci_modelcache.cli.main import main
from ci_modelcache.demo.faults import Planned
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.sources import http
from ci_modelcache.transfer import retry
from ci_modelcache.verbs import mirrors_bench, mirrors_check
from tests.parts import hub_faults as faults
from tests.parts.command_line import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.demo.exchange import Request
    from ci_modelcache.demo.repository import Repository

REPO = "org/name"
LARGE = "model.safetensors"
SMALL = "adapter.safetensors"
FILES = {
    "config.json": b'{"a": 1}\n',
    SMALL: bytes(range(256)) * 4,
    LARGE: random.Random(1).randbytes(3_000_000),
}
NOBODY = "http://127.0.0.1:9"
"""Nothing listens there."""


Run = Callable[..., Outcome]
Hubs = Callable[[int], "list[LoopbackHub]"]


def verdicts(check: Outcome) -> list[str]:
    """In order of priority."""
    return [str(each["verdict"]) for each in check.json["checks"]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that are too short to wait for, and silence that is soon long enough."""
    monkeypatch.setattr(retry, "RetryPolicy", partial(retry.RetryPolicy, base=0.005, cap=0.02))
    monkeypatch.setattr(http, "READ_SECONDS", 0.5)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in a folder of its own, with its own state and store, on a terminal of *width* columns."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CI_MODELCACHE_STORE", str(tmp_path / "store"))

    def run(line: str, *, width: int = 100) -> Outcome:
        monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        code = main(shlex.split(line))
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def hubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hubs]:
    """Makes so many Hubs with the same model; the last one is the authority, the others are its mirrors, by priority."""
    with ExitStack() as running:

        def make(number: int) -> list[LoopbackHub]:
            made = [
                running.enter_context(LoopbackHub(cdn=False, tokens={"hf_reader": "reader"})) for _ in range(number)
            ]
            for hub in made:
                hub.add_repo(REPO, {"main": FILES})
            configure(monkeypatch, *(hub.url for hub in made))
            return made

        yield make


def configure(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    """The last of *urls* is the authority, the others are mirrors."""
    *mirrors, authority = urls
    monkeypatch.setenv("HF_ENDPOINT", authority)
    monkeypatch.setenv("CI_MODELCACHE_MIRRORS", " ".join(mirrors))


def repository(hub: LoopbackHub) -> Repository:
    (only,) = hub._routes.repositories.values()
    return only


def large(request: Request) -> bool:
    return faults.files(request) and LARGE in request.target


# --- check


def test_mirrors_that_are_fresh_and_honest_are_ok(run: Run, hubs: Hubs) -> None:
    hubs(3)
    outcome = run(f"mirrors check {REPO} --json")
    assert outcome.code == 0, outcome
    for each in outcome.json["checks"]:
        assert each["verdict"] == "ok"
        assert each["commit"] == each["expected"]
        assert each["compared"] == len(FILES[SMALL]) + 3 * 65_536
        assert each["detail"] == f"{SMALL} is right; 3 samples of {LARGE} are the same elsewhere"
    assert [each["authority"] for each in outcome.json["checks"]] == [False, False, True]


def test_a_check_says_in_words_what_it_found(run: Run, hubs: Hubs) -> None:
    mirror, authority = hubs(2)
    outcome = run(f"mirrors check {REPO}")
    commit = repository(authority).branches["main"]
    same = f"                {SMALL} is right; 3 samples of {LARGE} are the same elsewhere"
    assert outcome.out.splitlines() == [
        f"{REPO}@main is {commit} by the authority's word",
        f"  ok          {mirror.url}",
        same,
        f"  ok          {authority.url} (the authority)",
        same,
    ]


def test_a_mirror_that_is_behind_is_stale_and_both_commits_are_named(run: Run, hubs: Hubs) -> None:
    mirror, authority = hubs(2)
    new = repository(authority).commit({**FILES, "config.json": b'{"a": 2}\n'})
    outcome = run(f"mirrors check {REPO} --json")
    assert outcome.code == 11, outcome
    stale, fine = outcome.json["checks"]
    assert (stale["verdict"], fine["verdict"]) == ("stale", "ok")
    assert (stale["commit"], stale["expected"]) == (repository(mirror).branches["main"], new)
    assert stale["since"]
    told = f"main is {stale['commit']} here, and {new} by the authority, which was made {stale['since']}"
    assert stale["detail"] == told, "that it lacks what the authority has is no news"


def test_a_mirror_that_heard_of_a_push_before_us_is_not_stale(run: Run, hubs: Hubs) -> None:
    mirror, authority = hubs(2)
    old = repository(authority).branches["main"]
    new = repository(authority).commit({**FILES, "config.json": b'{"a": 2}\n'})
    repository(mirror).commit({**FILES, "config.json": b'{"a": 2}\n'})
    before = faults.Body(when=faults.naming("/revision/main"), times=1, body=json.dumps({"sha": old}).encode())
    authority.faults.append(before)
    outcome = run(f"mirrors check {REPO} --json")
    assert before.happened == 1
    assert outcome.code == 0, outcome
    assert outcome.json["checks"][0]["commit"] == new


def test_a_mirror_that_sends_a_small_file_with_other_bytes_is_wrong(run: Run, hubs: Hubs) -> None:
    mirror, _ = hubs(2)
    mirror.faults.append(faults.Flipped(when=faults.naming(SMALL)))
    outcome = run(f"mirrors check {REPO} --json")
    assert outcome.code == 13, outcome
    assert verdicts(outcome) == ["wrong", "ok"]
    assert f"{SMALL} from {mirror.url}: expected digest" in outcome.json["checks"][0]["detail"]


def test_a_mirror_that_was_filled_without_git_lfs_is_wrong(run: Run, hubs: Hubs) -> None:
    mirror, _ = hubs(2)
    mirror.faults.append(faults.Pointer(when=large))
    mirror.faults.append(faults.Pointer(when=faults.naming(SMALL)))
    outcome = run(f"mirrors check {REPO} --json")
    assert (outcome.code, verdicts(outcome)) == (13, ["wrong", "ok"]), outcome


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_samples_of_a_large_file_name_whoever_the_others_contradict(liar: int, run: Run, hubs: Hubs) -> None:
    """Be it the authority: what a revision means is its to say, what bytes hash to is not."""
    hubs_ = hubs(3)
    hubs_[liar].faults.append(faults.Poison(when=large))
    outcome = run(f"mirrors check {REPO} --json")
    assert outcome.code == 13, outcome
    assert verdicts(outcome) == ["wrong" if number == liar else "ok" for number in range(3)]
    assert f"of {LARGE} are not what 2 others send" in outcome.json["checks"][liar]["detail"]


def test_of_two_that_differ_the_authority_is_believed(run: Run, hubs: Hubs) -> None:
    mirror, _ = hubs(2)
    mirror.faults.append(faults.Poison(when=large))
    outcome = run(f"mirrors check {REPO} --json")
    assert verdicts(outcome) == ["wrong", "ok"]
    assert "are not what the authority sends" in outcome.json["checks"][0]["detail"]


@pytest.mark.parametrize(
    ("fault", "verdict", "code"),
    [
        (faults.Status(when=faults.always, status=503), "unreachable", 11),
        (faults.HangUp(when=faults.always), "unreachable", 11),
        (faults.Silence(when=faults.always), "unreachable", 11),
        (faults.TooManyRequests(when=faults.always, retry_after="100"), "unreachable", 11),
        (faults.Status(when=faults.always, status=403), "denied", 12),
        (faults.Status(when=faults.always, status=404, code="RepoNotFound"), "missing", 10),
        (faults.WebPage(when=faults.always), "wrong", 13),
        (faults.WebPage(when=faults.files), "wrong", 13),
        (faults.Status(when=faults.files, status=500), "unreachable", 11),
        (faults.Stall(when=large, after=1000), "unreachable", 11),
        (faults.Truncated(when=large, keep=10), "wrong", 13),
        (faults.Truncated(when=large, keep=10, matching=False), "unreachable", 11),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Planned) else str(value),
)
def test_every_way_to_fail_has_a_verdict_and_its_exit_code(
    fault: Planned, verdict: str, code: int, run: Run, hubs: Hubs
) -> None:
    mirror, _ = hubs(2)
    mirror.faults.append(fault)
    began = time.monotonic()
    outcome = run(f"mirrors check {REPO} --json")
    assert time.monotonic() - began < 20
    assert outcome.code == code, outcome
    assert verdicts(outcome) == [verdict, "ok"]
    assert outcome.json["checks"][0]["exit_code"] == code
    assert mirror.url in outcome.json["checks"][0]["detail"]


def test_the_worst_verdict_decides(run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    denying, lying, authority = hubs(3)
    denying.faults.append(faults.Status(when=faults.always, status=403))
    configure(monkeypatch, denying.url, NOBODY, authority.url)
    assert run(f"mirrors check {REPO}").code == 11
    lying.faults.append(faults.Poison(when=faults.files))
    configure(monkeypatch, denying.url, NOBODY, lying.url, authority.url)
    outcome = run(f"mirrors check {REPO} --json")
    assert (outcome.code, verdicts(outcome)) == (13, ["denied", "unreachable", "wrong", "ok"]), outcome


def test_without_the_authority_mirrors_are_asked_and_not_judged(
    run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror,) = hubs(1)
    configure(monkeypatch, mirror.url, NOBODY)
    outcome = run(f"mirrors check {REPO} --json")
    assert outcome.code == 11, outcome
    assert verdicts(outcome) == ["unjudged", "unreachable"]
    assert outcome.json["checks"][0]["commit"] == repository(mirror).branches["main"]
    assert f"{REPO}@main: the authority does not answer" in run(f"mirrors check {REPO}").out


def test_a_model_that_the_authority_does_not_have_is_nobody_elses_fault(
    run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs(2)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")  # without one the Hub does not say whether a model exists
    outcome = run("mirrors check org/none --json")
    assert outcome.code == 10
    assert outcome.json["error"]["type"] == "RepositoryNotFound"


def test_what_is_checked_is_how_it_is_now(run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was not there a moment ago, which other commands remember for a minute."""
    both = hubs(2)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert run("fetch org/late").code == 10
    for hub in both:
        hub.add_repo("org/late", {"main": FILES})
    assert run("mirrors check org/late").code == 0


def test_a_check_tries_twice_and_says_what_is_now(run: Run, hubs: Hubs) -> None:
    _, authority = hubs(2)
    down = faults.Status(when=faults.naming("/tree/"), status=503)
    authority.faults.append(down)
    assert verdicts(run(f"mirrors check {REPO} --json")) == ["unjudged", "unreachable"]
    assert down.happened == 2


def test_what_a_commit_means_is_not_asked(run: Run, hubs: Hubs) -> None:
    mirror, authority = hubs(2)
    commit = repository(authority).branches["main"]
    assert run(f"mirrors check {REPO}@{commit}").code == 0
    assert mirror.requests(within="/api/") == []


def test_a_mirror_that_knows_no_ranges_is_not_blamed(run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not near the beginning, where a sample is had by skipping what comes before it.
    monkeypatch.setattr(mirrors_check, "ranges", lambda *_: [(2_000_000, 2_000_100)] * 3)
    mirror, _, _ = hubs(3)
    mirror.faults.append(faults.IgnoredRange(when=large))
    outcome = run(f"mirrors check {REPO} --json")
    assert outcome.code == 0, outcome
    told = f"{SMALL} is right; it sends {LARGE} from its beginning only, so it was not sampled"
    assert outcome.json["checks"][0]["detail"] == told


def test_a_store_is_checked_by_its_bytes_and_a_missing_folder_says_so(
    run: Run, hubs: Hubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (authority,) = hubs(1)
    assert run(f"fetch {REPO} --store {tmp_path / 'filled'}").code == 0
    configure(monkeypatch, str(tmp_path / "filled"), str(tmp_path / "none"), authority.url)
    outcome = run(f"mirrors check {REPO} --json")
    assert (outcome.code, verdicts(outcome)) == (11, ["ok", "unreachable", "ok"]), outcome
    assert outcome.json["checks"][0]["commit"] is None
    assert str(tmp_path / "none") in outcome.json["checks"][1]["detail"]


def test_without_a_ref_the_models_of_the_project_are_checked(run: Run, hubs: Hubs, tmp_path: Path) -> None:
    mirror, authority = hubs(2)
    assert run("mirrors check").code == 2
    for hub in (mirror, authority):
        repository(hub).tags["v1.2.0"] = repository(hub).branches["main"]
        hub.add_repo("org/other", {"main": {"a.txt": b"a"}})
    (tmp_path / "work" / "modelcache.toml").write_text(
        f'[[models]]\nrepo = "{REPO}"\nrevision = "^1.1"\n[[models]]\nrepo = "org/other"\n'
    )
    outcome = run("mirrors check --json")
    assert outcome.code == 0, outcome
    refs = [each["ref"] for each in outcome.json["checks"]]
    assert refs == [f"{REPO}@v1.2.0"] * 2 + ["org/other@main"] * 2
    assert outcome.json["checks"][2]["detail"] == "a.txt is right"


# --- what is remembered


def test_an_empty_memory_says_so_and_what_to_run_and_asks_nobody(run: Run, hubs: Hubs) -> None:
    both = hubs(2)
    outcome = run("mirrors")
    assert (outcome.code, outcome.err) == (0, "")
    mirror, authority = (hub.url for hub in both)
    assert outcome.out.splitlines() == [
        f"{'SOURCE'.ljust(len(mirror))}  STATE    TTFB P50, P95  MB/S P50, P95  FAILED  LAST 429",
        f"{mirror}  unknown  -              -              -       -",
        f"{authority}  unknown  -              -              -       -",
        "",
        f"a large file now: {mirror} would be asked first: not measured yet",
        "nothing is remembered of any of them yet: ci-modelcache mirrors bench ORG/NAME measures them,",
        "and so does whatever is fetched",
    ]
    assert [hub.requests() for hub in both] == [[], []]


def test_after_a_fetch_it_tells_how_each_did_and_why_it_was_chosen(run: Run, hubs: Hubs) -> None:
    mirror, authority = hubs(2)
    mirror.faults.append(faults.Poison(when=faults.files))
    fetched = run(f"fetch {REPO}")
    assert fetched.code == 0, fetched
    told = run("mirrors --json")
    lying, honest = told.json["mirrors"]
    assert (lying["state"], honest["state"]) == ("barred", "ready")
    assert lying["failures"]["wrong-bytes"] >= 1
    assert lying["decided"].startswith("left alone for ")
    assert lying["barred_until"] > told.json["now"]
    assert honest["barred_until"] is honest["limited_until"] is honest["last_limited"] is None
    assert honest["proven"] >= sum(map(len, FILES.values()))
    assert honest["ttfb_p50"] > 0
    assert honest["speed_p50"] > 0
    assert honest["decided"].startswith("asked: ")
    assert told.json["first"] == authority.url
    shown = run("mirrors").out
    assert "breaker   open for another " in shown
    assert f"{authority.url}, the authority" in shown
    assert f"a large file now: {authority.url} would be asked first: the only one that can be asked now" in shown


def test_a_mirror_that_asked_for_a_pause_shows_when(run: Run, hubs: Hubs) -> None:
    mirror, _ = hubs(2)
    mirror.faults.append(faults.TooManyRequests(when=faults.files, retry_after="100"))
    assert run(f"fetch {REPO}").code == 0
    limited, _ = run("mirrors --json").json["mirrors"]
    assert limited["state"] == "limited"
    assert limited["failures"] == {"rate-limited": limited["attempts"]}
    shown = run("mirrors").out
    assert "limited   it asked for a pause, for another 1 min " in shown
    (row,) = (line for line in shown.splitlines() if line.startswith(mirror.url) and "limited" in line)
    assert row.endswith(" s ago")


def test_what_is_remembered_and_not_configured_is_named(run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, authority = hubs(2)
    assert run(f"fetch {REPO}").code == 0
    configure(monkeypatch, authority.url)
    assert run("mirrors --json").json["others"] == [mirror.url]
    assert f"also remembered, and not configured now: {mirror.url}" in run("mirrors").out


def test_a_mirror_that_cannot_be_used_says_why(run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    (authority,) = hubs(1)
    configure(monkeypatch, "/no/such/folder", authority.url)
    outcome = run("mirrors")
    assert outcome.code == 0
    assert "unusable" in outcome.out
    assert "/no/such/folder\n  problem  " in outcome.out


def test_what_was_decided_obeys_nobody_who_wrote_the_file(run: Run, hubs: Hubs, tmp_path: Path) -> None:
    hubs(2)
    assert run(f"fetch {REPO}").code == 0
    kept = tmp_path / "state" / "mirrors.json"
    kept.write_text(kept.read_text().replace('"decided": "asked', '"decided": "\\u001b[2Jasked'))
    shown = run("mirrors").out
    assert "?[2Jasked" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("line", ["mirrors", f"mirrors bench {REPO} --downloads 1"])
def test_tables_fit_the_terminal(line: str, width: int, run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "https://a-mirror-with-a-very-long-name.of-a-department.example.org/and/a/path"
    (authority,) = hubs(1)
    assert run(f"fetch {REPO}").code == 0
    if line == "mirrors":
        configure(monkeypatch, long, authority.url)
    out = run(line, width=width).out
    table = out.partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= width
    assert ("TTFB P50, P95" in table[0]) == (width > 60)


# --- bench


def figures(outcome: Outcome) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Those of each source alone, and those of all together."""
    return outcome.json["sources"], outcome.json["together"]


def test_every_source_is_measured_alone_and_then_all_together(run: Run, hubs: Hubs, tmp_path: Path) -> None:
    running = hubs(3)
    outcome = run(f"mirrors bench {REPO} --downloads 2 --json")
    assert outcome.code == 0, outcome
    alone, together = figures(outcome)
    report = outcome.json
    assert (report["path"], report["size"], report["proof"]) == (LARGE, len(FILES[LARGE]), "digest")
    assert [each["source"] for each in alone] == [hub.url for hub in running]
    for each in alone:
        assert (each["downloads"], each["failed"], each["retries"], each["causes"]) == (2, 0, 0, {})
        assert each["sources"] == {each["source"]: 2 * len(FILES[LARGE])}
        assert each["ttfb_p50"] > 0
        assert len(each["speeds"]) == 2
    assert sum(together["sources"].values()) == 2 * len(FILES[LARGE])
    best = max(alone, key=lambda each: each["speed_p50"])
    assert report["best"] == best["source"]
    assert report["utilisation"] == pytest.approx(together["speed_p50"] / best["speed_p50"])
    assert not (tmp_path / "store").exists()
    assert list((tmp_path / "state" / "bench").iterdir()) == []


def test_what_is_measured_is_remembered_but_no_choice_where_there_was_none(run: Run, hubs: Hubs) -> None:
    running = hubs(2)
    assert run(f"mirrors bench {REPO} --downloads 1").code == 0
    known = run("mirrors --json").json["mirrors"]
    assert [each["url"] for each in known] == [hub.url for hub in running]
    for each in known:
        assert each["proven"] >= len(FILES[LARGE])
        assert "the only one" not in each["decided"]
    assert any(each["decided"] for each in known)


def test_a_poisoned_mirror_is_found_alone_and_costs_all_together_nothing(run: Run, hubs: Hubs) -> None:
    mirror, authority = hubs(2)
    mirror.faults.append(faults.Poison(when=faults.files))
    outcome = run(f"mirrors bench {REPO} --downloads 2 --json")
    assert outcome.code == 0, outcome
    (lying, honest), together = figures(outcome)
    assert (lying["downloads"], lying["failed"], lying["causes"]) == (1, 1, {"wrong-bytes": 1})
    assert lying["speed"] is None
    assert "expected digest" in lying["error"]
    assert (honest["failed"], together["failed"]) == (0, 0)
    assert together["sources"] == {authority.url: 2 * len(FILES[LARGE])}
    assert together["received"] == 2 * len(FILES[LARGE])
    assert run("mirrors --json").json["mirrors"][0]["state"] == "barred"


def test_connections_that_break_off_are_counted_as_retries(run: Run, hubs: Hubs) -> None:
    mirror, _ = hubs(2)
    mirror.faults.append(faults.ResetAtShare(when=large, share=0.3, times=3))
    outcome = run(f"mirrors bench {REPO} --downloads 2 --json")
    (flaky, steady), _ = figures(outcome)
    assert (flaky["downloads"], flaky["failed"]) == (2, 0), outcome
    assert flaky["causes"] == {"broken-off": 3}
    assert (flaky["retries"], flaky["retry_rate"]) == (3, 150.0)
    assert steady["retry_rate"] == 0.0


def test_when_nobody_brings_the_file_the_exit_code_is_that_of_all_together(run: Run, hubs: Hubs) -> None:
    for hub in hubs(2):
        hub.faults.append(faults.Status(when=faults.files, status=503))
    measured = run(f"mirrors bench {REPO} --downloads 1 --json")
    assert measured.json["exit_code"] == 11
    for each in measured.json["sources"]:
        assert each["causes"] == {"unavailable": 6}
        assert (each["failed"], each["retries"], each["retry_rate"]) == (1, 5, 500.0), "the first is no retry"
    outcome = run(f"mirrors bench {REPO} --downloads 1")
    assert outcome.code == 11, outcome
    assert "utilisation  none: no source brought the file alone" in outcome.out


def test_of_what_breaks_off_for_good_nothing_is_kept(run: Run, hubs: Hubs, tmp_path: Path) -> None:
    for hub in hubs(2):
        hub.faults += [faults.Dies(when=large, after=1), faults.ResetAtShare(when=large, share=0.3)]
    outcome = run(f"mirrors bench {REPO} --downloads 1 --json")
    assert outcome.code == 11, outcome
    assert [each["received"] > 0 for each in outcome.json["sources"]] == [True, True]
    assert list((tmp_path / "state" / "bench").iterdir()) == []


def test_at_the_deadline_the_figures_so_far_are_shown(
    run: Run, hubs: Hubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 10.0)  # slow, and never silent
    fast, slow = hubs(2)
    slow.faults.append(faults.Limited(when=large, rate=100_000))
    began = time.monotonic()
    outcome = run(f"mirrors bench {REPO} --downloads 3 --deadline 2s --json")
    assert time.monotonic() - began < 15
    assert outcome.code == 15, outcome
    assert outcome.json["stopped"].startswith("the deadline of 2s passed while ")
    (first, second), together = figures(outcome)
    assert (first["source"], first["failed"], len(first["speeds"])) == (fast.url, 0, 1)
    assert second["speed"] is None
    assert together["downloads"] == 0
    assert outcome.json["utilisation"] is None
    assert list((tmp_path / "state" / "bench").iterdir()) == []


def test_of_a_large_file_the_beginning_is_compared_and_counts_as_proven_for_nobody(
    run: Run, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors_bench, "MOST", 1_000_000)
    lying, one, other = hubs(3)
    lying.faults.append(faults.Poison(when=faults.files))
    outcome = run(f"mirrors bench {REPO} --downloads 2 --json")
    assert (outcome.json["proof"], outcome.json["size"]) == ("agreement", 1_000_000)
    (first, second, third), together = figures(outcome)
    assert (first["downloads"], first["failed"], first["causes"]) == (2, 2, {"wrong-bytes": 2})
    assert f"the first 1000000 bytes of {LARGE} from {lying.url}" in first["error"]
    assert second["failed"] == third["failed"] == 0
    assert second["received"] == third["received"] == 2_000_000
    assert (outcome.code, together["failed"]) == (0, 0), "what those alone agreed on proves the rest"
    assert lying.url not in together["sources"]
    for hub in (one, other):
        assert all(seen.range == "bytes=0-999999" for seen in hub.requests(within=LARGE))
    assert [each["proven"] for each in run("mirrors --json").json["mirrors"]] == [0, 0, 0]


def test_the_file_can_be_chosen_and_one_that_is_not_there_is_a_miss(run: Run, hubs: Hubs) -> None:
    hubs(2)
    assert run(f"mirrors bench {REPO} --downloads 1 --file config.json --json").json["size"] == len(
        FILES["config.json"]
    )
    outcome = run(f"mirrors bench {REPO} --file none.bin")
    assert outcome.code == 10
    assert f"{REPO}@main has no file none.bin" in outcome.err
    assert f"hint: its largest file is {LARGE}" in outcome.err


def test_a_page_with_plots_is_written_that_loads_nothing(run: Run, hubs: Hubs, tmp_path: Path) -> None:
    mirror, authority = hubs(2)
    mirror.faults.append(faults.Poison(when=faults.files))
    page = tmp_path / "mirrors.html"
    outcome = run(f"mirrors bench {REPO} --downloads 2 --html {page}")
    assert outcome.code == 0, outcome
    assert f"drawn into {page}" in outcome.err
    text = page.read_text()
    root = ET.fromstring(text.partition("\n")[2])
    cells = [cell.text for cell in root.iter("td")]
    assert {mirror.url, authority.url, "together", "1 wrong-bytes"} <= set(cells)
    assert "<script" not in text
    assert "src=" not in text


def test_a_name_that_is_no_page_is_refused_before_anything_is_downloaded(run: Run, hubs: Hubs) -> None:
    running = hubs(2)
    assert run(f"mirrors bench {REPO} --html mirrors.txt").code == 2
    assert [hub.requests() for hub in running] == [[], []]


# --- usage


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("mirrors bench", "bench measures with one model: it comes after bench"),
        ("mirrors bench org/a org/b", "bench measures with one model: it comes after bench"),
        ("mirrors check org/a --html a.html", "--downloads, --file and --html go with bench"),
        ("mirrors --downloads 3", "--downloads, --file and --html go with bench"),
        ("mirrors org/a", "'org/a' is not one of 'bench', 'check'"),
        ("mirrors bench org/a --downloads 0", "0 is not in the range"),
        ("mirrors check org/a --offline", "check asks the mirrors, and offline is set by flag --offline"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, told: str, run: Run) -> None:
    outcome = run(line)
    assert outcome.code == 2
    assert told in outcome.err


def test_offline_what_is_remembered_is_shown(run: Run, hubs: Hubs) -> None:
    hubs(2)
    assert run("mirrors --offline").code == 0
