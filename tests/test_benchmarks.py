"""The benchmark of mirrors works: what it starts, what it writes, and how it judges."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, fields

from benchmarks.mirrors.__main__ import document, machine
from benchmarks.mirrors.cases import CASES
from benchmarks.mirrors.entries import Client, End, Entry, Run
from benchmarks.mirrors.measure import Measured, make_inputs
from benchmarks.mirrors.tables import HEADS, markdown, rows
from benchmarks.mirrors.targets import Faster, Frugal, Leaves, Resumes, ends

ROOT = Path(__file__).parent.parent

RIGHT = Run(
    ended=End.OK,
    exit=0,
    error="",
    named=False,
    seconds=4.0,
    transfer=3.0,
    cpu=1.0,
    hubs_cpu=0.5,
    busy=0.5,
    sent=(60, 40),
    requests=3,
)
REFUSED = evolve(RIGHT, ended=End.FAILED, exit=13, error="DigestMismatch", named=True)
OURS, THEIRS = Entry("ours"), Entry("theirs", Client.THEIRS)


def test_both_clients_go_through_two_faults_and_the_figures_have_the_documented_shape(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.mirrors", "--quick", "--only", "flipped", "--only", "reset-50"]
    done = subprocess.run(
        [*command, "--json", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert set(figures) == {"format", "at", "quick", "machine", "cases"}
    assert (figures["format"], figures["quick"]) == (1, True)
    assert [case["name"] for case in figures["cases"]] == ["reset-50", "flipped"]
    for case in figures["cases"]:
        assert set(case) == {"name", "says", "size", "files", "hubs", "rounds", "entries", "promises"}
        assert all(set(promise) == {"kept", "says"} for promise in case["promises"])
        for entry in case["entries"]:
            assert set(entry) == {"label", "client", "mirrors", "connections", "runs"}
            assert [set(run) for run in entry["runs"]] == [{field.name for field in fields(Run)}]
    reset, flipped = figures["cases"]
    assert _ends(reset) == {"huggingface_hub": ["FAILED"], "ours": ["ok"], "ours, mirrored": ["ok"]}
    assert _ends(flipped) == {"huggingface_hub": ["CORRUPT"], "ours": ["FAILED"], "ours, mirrored": ["ok"]}
    assert "DigestMismatch" in done.stdout


def _ends(case: dict[str, Any]) -> dict[str, list[str]]:
    return {entry["label"]: [run["ended"] for run in entry["runs"]] for entry in case["entries"]}


def test_a_failure_keeps_a_promise_only_by_its_exit_code_and_by_naming_the_culprit() -> None:
    refusing = [evolve(OURS, exits=13)]
    for run, kept in (
        (REFUSED, True),
        (evolve(REFUSED, exit=1), False),
        (evolve(REFUSED, named=False), False),
        (RIGHT, False),
    ):
        (verdict,) = ends(refusing, {"ours": [REFUSED, run]})
        assert verdict.met is kept


def test_a_success_with_wrong_bytes_keeps_no_promise() -> None:
    (verdict,) = ends([OURS, THEIRS], {"ours": [RIGHT, evolve(RIGHT, ended=End.CORRUPT)], "theirs": [REFUSED]})
    assert not verdict.met
    assert "1 of 2" in verdict.says


def test_what_is_not_promised_is_not_judged() -> None:
    assert ends([evolve(OURS, exits=None)], {"ours": [REFUSED]}) == []


@pytest.mark.parametrize(
    ("target", "run", "kept"),
    [
        (Faster("ours", "theirs", 2.0), RIGHT, True),
        (Faster("ours", "theirs", 2.1), RIGHT, False),
        (Faster("ours", "theirs", 2.6, transfer=True), RIGHT, True),
        (Frugal("ours", 5), evolve(RIGHT, sent=(60, 45)), True),
        (Frugal("ours", 5), evolve(RIGHT, sent=(60, 46)), False),
        (Leaves("ours", 10.0), evolve(RIGHT, left=9.0), True),
        (Leaves("ours", 10.0), evolve(RIGHT, left=10.5), False),
        (Resumes("ours", 5), evolve(RIGHT, again=5), True),
        (Resumes("ours", 5), evolve(RIGHT, again=6), False),
    ],
)
def test_a_target_counts_the_worst_run_or_the_median(target: Any, run: Run, *, kept: bool) -> None:
    theirs = evolve(RIGHT, seconds=8.0, transfer=None)
    assert target.judge({"ours": [RIGHT, run, run], "theirs": [theirs] * 3}, 100).met is kept


def test_the_page_has_a_row_for_each_entry_and_no_speed_of_who_failed() -> None:
    case = evolve(CASES[0], entries=(THEIRS, OURS), size=100)
    failed = Measured(case, {"theirs": [REFUSED], "ours": [RIGHT]}, [])
    raced = Measured(case, {"theirs": [evolve(RIGHT, seconds=8.0)], "ours": [RIGHT, REFUSED, RIGHT]}, [])
    against = HEADS.index("against theirs")
    assert rows(failed)[1][against] == ""
    assert rows(raced)[1][HEADS.index("ended")] == "2x ok, 1x FAILED (DigestMismatch)"
    won = Measured(case, {"theirs": [evolve(RIGHT, seconds=8.0)], "ours": [RIGHT]}, [])
    assert rows(won)[1][against] == "2.00x"
    page = markdown([won], machine=machine(), command="it")
    assert page.count("| clean: nothing goes wrong |") == 1
    assert json.loads(json.dumps(document([won], machine(), quick=False)))["cases"][0]["promises"] == []


def test_inputs_are_the_same_each_time(tmp_path: Path) -> None:
    made = [make_inputs(tmp_path / name, size=3000, files=3) for name in ("a", "b")]
    assert made[0] == made[1]
    assert len(set(made[0].values())) == 3


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
