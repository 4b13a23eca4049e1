"""``ci-modelcache verify`` as it is called: what its flags mean together, and repair from where they say."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.stores.s3 import S3Store
from tests.parts.command_line import Outcome, calling
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.servers import BUCKET, REGION, S3Server, login
from tests.parts.stores import tree
from tests.parts.verbs import Bench, flipped, swap, write_files

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Outcome]:
    """A command line about a store that has `TINY`, beside the Hub that it came from."""
    bench.fetch()
    bench.hub.forget()
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("HF_ENDPOINT", bench.hub.url)
    monkeypatch.setenv("CI_MODELCACHE_STORE", str(bench.disk.root))

    return calling(capsys)


def test_all_tells_what_there_is_and_what_nobody_needs(run: Callable[[str], Outcome], bench: Bench) -> None:
    bench.disk.write("notes.txt", [b"x"], size=1)
    outcome = run("verify --all")
    assert outcome.code == 0, outcome
    assert "1 snapshot, 7 blobs, " in outcome.out
    assert "0 of them (0 B) needed by nothing; 1 of a kind that this version does not know" in outcome.out
    assert run("verify --all --json").json["unknown"] == ["notes.txt"]


@pytest.mark.parametrize("line", ["verify --structure", "verify --structure --all", "verify --structure acme/tiny"])
def test_structure_reads_no_file(run: Callable[[str], Outcome], bench: Bench, line: str) -> None:
    swap(bench.blob(WEIGHTS), flipped(WEIGHTS))
    report = run(f"{line} --json")
    assert (report.code, report.json["bytes_read"], report.json["problems"]) == (0, 0, [])
    bench.blob(WEIGHTS).unlink()
    assert run(line).code == 13


def test_a_sample_says_how_far_the_round_is_and_the_next_one_goes_on(run: Callable[[str], Outcome]) -> None:
    first, second = (run("verify --sample 20% --json").json for _ in range(2))
    assert (first["round"], second["round"]) in {(1, 1), (1, 2)}
    assert (second["round"], second["covered"]) > (first["round"], first["covered"]) > (1, 0.0)
    assert "round " in run("verify --sample 20%").out


def test_a_reader_samples_without_writing_to_the_store(run: Callable[[str], Outcome], bench: Bench) -> None:
    before = tree(bench.disk)
    first, second = (run("verify --sample 20% --mode read --json").json for _ in range(2))
    assert (second["round"], second["covered"]) > (first["round"], first["covered"])
    assert tree(bench.disk) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("verify acme/tiny --all", "--all is about the whole store"),
        ("verify acme/tiny --sample 5%", "--sample is about the whole store"),
        ("verify --sample 5% --all", "contradicts"),
        ("verify --sample 5% --structure", "contradicts"),
        ("verify --sample 5", "not a share"),
        ("verify --sample 0%", "reads nothing"),
        ("verify --sample 101%", "not a share"),
        ("verify --from replica", "--repair"),
        ("verify --repair --from typo", "there is no folder"),
        ("verify --repair --mode read", "this command writes to the store, and the mode is read"),
        ("verify --repair --store typo", "there is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(
    run: Callable[[str], Outcome], bench: Bench, line: str, said: str
) -> None:
    outcome = run(line)
    assert outcome.code == 2, outcome
    assert said in outcome.err
    assert not (bench.folder / "typo").exists()


def test_repair_takes_what_is_named_first_then_the_tier_then_the_replicas_then_the_hub(
    run: Callable[[str], Outcome], bench: Bench
) -> None:
    shutil.copytree(bench.disk.root, bench.folder / "replica")
    shutil.copytree(bench.disk.root / "blobs", bench.folder / "tier" / "blobs")
    write_files(bench.folder / "restored", TINY)
    lines = {
        "verify --repair --from restored --tier tier --replica replica": "restored",
        "verify --all --repair --from replica --tier tier": "replica",
        "verify --all --repair --tier tier --replica replica": "tier",
        "verify --repair --replica replica": "replica",
        "verify --repair acme/tiny --offline --from restored": "restored",
    }
    for line, source in lines.items():
        swap(bench.blob(WEIGHTS), flipped(WEIGHTS))
        report = run(f"{line} --json")
        assert report.code == 0, report
        assert [one["repaired"] for one in report.json["problems"]] == [str(bench.folder / source)]
        assert bench.hub.requests() == []
    bench.blob(WEIGHTS).unlink()
    outcome = run("verify --repair --offline")
    assert outcome.code == 13
    assert "  not repaired: nobody could be asked for it" in outcome.out
    outcome = run("verify --repair")
    assert outcome.code == 0, outcome
    assert f"  repaired from {bench.hub.url}" in outcome.out
    assert "1 problem, 1 of them repaired" in outcome.out
    assert run("verify").out.endswith("all as promised\n")


def test_a_replica_in_a_bucket_is_reached_by_what_its_url_says(
    run: Callable[[str], Outcome],
    bench: Bench,
    seaweedfs_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    login(monkeypatch)
    replica = f"s3://{BUCKET}/verify-repair?endpoint_url={seaweedfs_server.endpoint}&region={REGION}"
    assert run(f"fetch acme/tiny --store '{replica}'").code == 0
    bench.hub.forget()
    swap(bench.blob(WEIGHTS), flipped(WEIGHTS))
    for path in (bench.disk.root / "manifests").rglob("*"):
        if path.is_file():
            path.unlink()
    report = run(f"verify --all --repair --from '{replica}' --json")
    assert report.code == 0, report
    assert {one["what"] for one in report.json["problems"]} == {"manifest", "model.safetensors"}
    assert all(f"s3://{BUCKET}/verify-repair" in one["repaired"] for one in report.json["problems"])
    assert bench.hub.requests() == []
    bench.check_invariants()


def test_a_store_in_a_bucket_is_repaired_and_sampled(
    run: Callable[[str], Outcome], bench: Bench, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    store = f"--store 's3://{BUCKET}/verify-all?endpoint_url={seaweedfs_server.endpoint}&region={REGION}'"
    assert run(f"fetch acme/tiny {store}").code == 0
    assert run(f"verify --all {store}").code == 0
    endpoint = seaweedfs_server.endpoint
    bucket = S3Store(BUCKET, "verify-all", endpoint_url=endpoint, region=REGION, retry=bench.retry())
    key = bench.blob(WEIGHTS).relative_to(bench.disk.root).as_posix()
    bucket.write(key, [flipped(WEIGHTS)], size=len(WEIGHTS))
    assert run(f"verify --all {store}").code == 13
    assert run(f"verify --sample 100% --repair --from {bench.disk.root} {store}").code == 0
    assert run(f"verify --all {store}").code == 0


def test_the_program_says_the_same_in_both_forms(run: Callable[[str], Outcome], bench: Bench) -> None:
    bench.blob(WEIGHTS).unlink()
    people, machines = run("verify --all"), run("verify --all --json")
    (problem,) = json.loads(machines.out)["problems"]
    assert f"missing: {problem['snapshot']}: model.safetensors: " in people.out
    assert people.code == machines.code == 13
