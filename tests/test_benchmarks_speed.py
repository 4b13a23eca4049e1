"""The benchmark of speed works: every one of it runs, in small; what it keeps and shows, how it judges, and what it measures with."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from attrs import evolve, fields

from benchmarks.__main__ import keep, main, plain
from benchmarks.speed.catalogue import NAMES
from benchmarks.speed.figures import MIB, Result, Row, Sample, Verdict, below, document, faster, from_document
from benchmarks.speed.inputs import make_model, make_small, snapshot_of
from benchmarks.speed.networks import Latency, PathRelay
from benchmarks.speed.running import measured
from benchmarks.speed.tables import disturbance, grid, heads, markdown, picture, promises
from benchmarks.speed.world import Scale, worlds

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SAMPLE = Sample(seconds=2.0, cpu=1.0, memory=64 * MIB, store_cpu=0.5, others_cpu=0.2)
OURS = Row("ours", ours=True, size=10_000_000, samples=(SAMPLE, evolve(SAMPLE, seconds=4.0, memory=100 * MIB), SAMPLE))
THEIRS = Row("s5cmd", ours=False, size=10_000_000, samples=(evolve(SAMPLE, seconds=1.0, cpu=0.5),))
RESULT = Result(
    name="restore",
    says="restore: 10 MB",
    where="loopback",
    against="s5cmd",
    rows=(OURS, THEIRS),
    verdicts=(Verdict(met=True, says="yes"), Verdict(met=False, says="ours is late")),
    notes=("a note",),
    machine={"cores": 2},
)


# --- all of it, in small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What the command prints for every name, and its figures."""
    file = tmp_path_factory.mktemp("speed") / "figures.json"
    command = [sys.executable, "-m", "benchmarks", *NAMES, "--quick", "--size", "8M", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert file.exists(), done.stdout + done.stderr
    assert done.returncode in {0, 1}, done.stdout + done.stderr  # it depends on speed
    return done.stdout, json.loads(file.read_text())


@pytest.mark.timeout(900)  # it is the first that asks for `run`, on a machine that may be busy
def test_every_benchmark_runs_and_its_figures_have_the_documented_shape(run: tuple[str, dict[str, Any]]) -> None:
    _, figures = run
    assert set(figures) == {"format", "benchmarks"}
    assert [each["name"] for each in figures["benchmarks"]] == list(NAMES)
    for each in figures["benchmarks"]:
        assert set(each) == {field.name for field in fields(Result)}
        for verdict in each["verdicts"]:
            assert set(verdict) == {"met", "says"}
        assert each["rows"]
        for row in each["rows"]:
            assert set(row) == {"label", "ours", "size", "samples"}
            for sample in row["samples"]:
                assert set(sample) == {field.name for field in fields(Sample)}
                assert sample["seconds"] > 0
                assert sample["memory"] > MIB


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_shows_a_table_with_a_line_for_each_way(name: str, run: tuple[str, dict[str, Any]]) -> None:
    shown, figures = run
    (result,) = (each for each in from_document(figures) if each.name == name)
    assert any(line.startswith(f"{name}: ") for line in shown.splitlines())
    for row in result.rows:
        assert f"  {row.label} " in shown
    assert any(row.ours for row in result.rows)


def test_what_does_not_depend_on_speed_is_right(run: tuple[str, dict[str, Any]]) -> None:
    _, figures = run
    found = {result.name: result for result in from_document(figures)}
    *_, untouched = found["again"].verdicts
    assert untouched.met
    (_, same) = found["export"].verdicts
    assert same.met
    ours, archive = found["disk"].rows
    assert (ours.samples[0].disk or 0) < (archive.samples[0].disk or 0)


# --- the command line


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["no-such-thing"])
    assert "is none of: startup, restore" in capsys.readouterr().err


def test_results_are_kept_by_name_beside_those_of_earlier_runs(tmp_path: Path) -> None:
    later = evolve(RESULT, name="startup")
    keep([RESULT], tmp_path)
    keep([later, evolve(RESULT, says="measured again")], tmp_path)
    kept = from_document(json.loads((tmp_path / "speed.json").read_text()))
    assert [(each.name, each.says) for each in kept] == [("startup", RESULT.says), ("restore", "measured again")]
    assert "measured again" in (tmp_path / "speed.md").read_text()
    assert (tmp_path / "speed.svg").read_bytes().startswith(b"<?xml")


def test_figures_come_back_from_their_document() -> None:
    assert from_document(json.loads(plain([RESULT]))) == [RESULT]
    with pytest.raises(ValueError, match="format 1 are wanted"):
        from_document({**document([RESULT]), "format": 2})


# --- tables


def test_a_line_has_median_and_spread_and_multiples_of_the_peer() -> None:
    first, second = grid(RESULT)
    assert first == ("ours", "2.00 (2.00-4.00)", "5", "1.00", "0.50", "100", "2.00x", "2.00x")
    assert second == ("s5cmd", "1.00", "10", "0.50", "0.50", "64", "1.00x", "1.00x")
    assert heads(RESULT)[-2:] == ("against s5cmd", "CPU")
    assert disturbance(RESULT).startswith("0.09 cores")


def test_the_page_has_what_is_promised_and_every_line() -> None:
    page = markdown([RESULT], command="it", absent=["serve: not measured"])
    assert "| restore | ours is late | no |" in page
    assert "| ours | 2.00 (2.00-4.00) |" in page
    assert {"- serve: not measured", "- a note", "- cores: 2"} <= set(page.splitlines())
    assert len(promises([RESULT])) == 2


def test_connections_are_drawn_as_lines() -> None:
    rows = tuple(evolve(OURS, label=f"ours, {count} connections") for count in (2, 4))
    lone = evolve(OURS, label="ours, by itself")
    assert picture([RESULT, evolve(RESULT, name="connections", rows=(*rows, lone))]).startswith(b"<?xml")


# --- verdicts


@pytest.mark.parametrize(("most", "met"), [(2.0, True), (1.9, False)])
def test_ours_is_compared_with_the_fastest_of_theirs(most: float, *, met: bool) -> None:
    slower = evolve(THEIRS, label="rclone", samples=OURS.samples)
    (verdict,) = faster([OURS, THEIRS, slower], "ours", ("rclone", "s5cmd", "absent"), most)
    assert verdict.met is met
    assert "2.00x of s5cmd" in verdict.says


def test_what_was_not_measured_is_not_judged() -> None:
    assert faster([OURS], "ours", ("s5cmd",), 1.0) == []
    assert below([THEIRS], "ours", "memory", 1, unit=(1, "bytes")) == []


def test_a_limit_counts_the_median_of_seconds_and_the_worst_of_memory() -> None:
    (time_limit,) = below([OURS], "ours", "seconds", 2.0, unit=(1, "s"))
    (memory_limit,) = below([OURS], "ours", "memory", 99 * MIB, unit=(MIB, "MiB"))
    assert (time_limit.met, memory_limit.met) == (True, False)
    assert "100.00 MiB, at most 99.00 MiB" in memory_limit.says


# --- how it is measured


def test_the_memory_of_who_measures_is_not_that_of_what_is_measured(tmp_path: Path) -> None:
    ballast = np.ones(200 * MIB, dtype=np.uint8)
    sample, told = measured(["/bin/echo", "hello"], environ={}, folder=tmp_path)
    assert ballast.nbytes > sample.memory
    assert sample.memory < 50 * MIB
    assert told == "hello\n"


def test_the_children_of_a_command_count(tmp_path: Path) -> None:
    work = f"{sys.executable} -c 'x = bytes(range(256)) * (320 << 10); sum(range(3_000_000))'"
    sample, _ = measured(["/bin/sh", "-c", f"{work}; true"], environ={}, folder=tmp_path, served_by=os.getpid())
    assert sample.memory > 80 * MIB
    assert sample.cpu > 0.01


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="sorry"):
        measured(["/bin/sh", "-c", "echo sorry >&2; exit 3"], environ={}, folder=tmp_path)


def test_inputs_are_real_weights_with_noise_that_repeat_nothing(tmp_path: Path, model: Path) -> None:
    for name, dtype in (("a", "F32"), ("b", "F32"), ("c", "BF16")):
        make_model(tmp_path / name, size=3_000_000, shards=2, dtype=dtype, seed=1)
    a, b, c = (snapshot_of(name, tmp_path / name) for name in "abc")
    assert a.files == b.files
    shards = [path for path in a.files if path.endswith(".safetensors")]
    assert len({(a.folder / path).read_bytes() for path in shards}) == len(shards) == 2
    assert all((a.folder / path).read_bytes() == (b.folder / path).read_bytes() for path in shards)
    assert (a.folder / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert all(
        abs(size - 1_500_000) < 10_000 for snapshot in (a, c) for size in map(snapshot.files.get, shards) if size
    )


def test_a_shard_is_read_by_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open  # noqa: PLC0415  # compiled, and for this alone

    make_model(tmp_path / "m", size=1_000_000, shards=1, dtype="F32", seed=1)
    with safe_open(tmp_path / "m" / "model.safetensors", framework="np") as file:
        found = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  # no mapping
    assert sum(each.nbytes for each in found) == 1_000_000
    assert all(np.isfinite(each).all() for each in found)


def test_small_files_are_so_many_and_so_small(tmp_path: Path) -> None:
    make_small(tmp_path / "s", count=7, size=100, seed=1)
    assert list(snapshot_of("s", tmp_path / "s").files.values()) == [100] * 7


def test_an_input_that_nobody_needs_any_more_goes(tmp_path: Path) -> None:
    with worlds(Scale(size=MIB, small=3), disk=tmp_path) as world:
        folder = world.snapshot("small").folder
        world.release(["small"])
        assert folder.exists()
        world.release(["fp32"])
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_without_room_in_memory_all_is_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.speed.world.MEMORY", tmp_path / "none")
    with worlds(Scale(), disk=tmp_path) as world:
        assert world.memory.is_dir()
    assert "has no room for 10752 MiB" in capsys.readouterr().err


# --- networks


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers 300,000 bytes to each connection that says something."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_answer, args=(server,))
        thread.start()
        yield server.getsockname()[1]
        socket.create_connection(server.getsockname()).close()
        thread.join()


def _answer(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            if not connection.recv(10):
                return
            connection.sendall(bytes(300_000))


@pytest.mark.parametrize(("latency", "least"), [(Latency(), 0.0), (Latency(0.05, 100_000), 0.2)])
def test_a_long_way_takes_a_round_trip_for_each_window(latency: Latency, least: float, echo: int) -> None:
    with PathRelay(echo, latency) as relay:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", relay.port)) as connection:
            connection.sendall(b"go")
            connection.shutdown(socket.SHUT_WR)
            received = 0
            while piece := connection.recv(65536):
                received += len(piece)
        assert time.monotonic() - began >= least
    assert received == 300_000
