"""`ci-modelcache import` as a job runs it: from files, parts, objects and pipes, and back again bit by bit."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from backports import zstd

from ci_modelcache.model.digest import Digest
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.locations import open_store
from ci_modelcache.transfer.parts import Sums, part_name, sums_name
from ci_modelcache.transfer.retry import RetryPolicy
from tests.parts.archives import oci_tar, plain_tar
from tests.parts.cached import cache_in, require_restorable
from tests.parts.command_line import Outcome, calling
from tests.parts.servers import BUCKET, REGION, S3Server, login
from tests.parts.snapshots import COMMIT, CONTENTS, REPO, manifest_of
from tests.parts.verbs import files_in, write_files

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[[str], Outcome]

PINNED = f"{REPO}@{COMMIT}"
SPLIT = 4000
"""Bytes of a part: some of the archive."""


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare_environment: Path
) -> Run:
    """Run a command line in an empty folder, with a store in another one."""
    del bare_environment
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("CI_MODELCACHE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path / "state"))

    return calling(capsys)


def require_imported(folder: Path) -> None:
    require_restorable(cache_in(DirectoryStore(folder / "store", create=False)))


def write_parts(folder: Path, data: bytes, name: str = "x.tar") -> list[Path]:
    """The parts of *data* and, last, their sums."""
    sums = Sums(SPLIT)
    sums.update(data)
    written = sums.finish(name)
    parts = [folder / each.name for each in written]
    for number, part in enumerate(parts):
        part.write_bytes(data[number * SPLIT : (number + 1) * SPLIT])
    document = folder / sums_name(name)
    document.write_bytes(sums.document(name, written))
    return [*parts, document]


# --- files


def test_an_archive_is_imported_and_its_models_are_printed(run: Run, tmp_path: Path) -> None:
    Path("x.tar").write_bytes(oci_tar())
    outcome = run("import x.tar")
    assert (outcome.code, outcome.out) == (0, f"{PINNED}\n")
    assert f"imported from {tmp_path}/work/x.tar (oci) into {tmp_path}/store: 1 model, 5 files" in outcome.err
    require_imported(tmp_path)


def test_what_was_exported_can_be_restored_from_another_store(run: Run, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "sub/weights.bin": random.Random(1).randbytes(3_000_000)}
    write_files(Path("in"), files)
    assert run("save in org/mine@v1").code == 0
    assert run("export org/mine@v1 -o x.tar").code == 0
    assert run(f"import x.tar --store {tmp_path}/other").code == 0
    assert run(f"restore org/mine@v1 --to out --offline --store {tmp_path}/other").code == 0
    assert {path: data for path, data in files_in(Path("out")).items() if not path.startswith(".")} == files


def test_json_has_what_was_imported(run: Run) -> None:
    Path("x.tar").write_bytes(oci_tar())
    report = run("import x.tar --json").json
    assert (report["format"], report["files"], report["bytes_uploaded"]) == ("oci", 5, sum(map(len, CONTENTS.values())))
    assert [(model["ref"], model["revisions"]) for model in report["models"]] == [(PINNED, ["main"])]


def test_a_branch_that_stays_as_it_is_is_told(run: Run, tmp_path: Path) -> None:
    Path("x.tar").write_bytes(oci_tar())
    cache = cache_in(DirectoryStore(tmp_path / "store", create=True))
    cache.put_head("huggingface.co", ModelRef(REPO), "f" * 40, "hub")
    outcome = run("import x.tar")
    assert outcome.code == 0
    assert f"{REPO}@main stays {'f' * 40}" in outcome.err
    assert run("import x.tar --no-revisions").err.count("main stays") == 0


def test_an_imported_branch_restores_offline_and_says_how_old_it_is(run: Run) -> None:
    Path("x.tar").write_bytes(oci_tar())
    run("import x.tar")
    outcome = run(f"restore {REPO} --to out --offline")
    assert outcome.code == 0
    assert "in the archive that it was imported from" in outcome.err


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"", 13, "broken off"),
        (oci_tar()[:-20_000], 13, "broken off"),
        (zstd.compress(oci_tar())[:-3], 13, "within a frame"),
        (b"PK\x03\x04" * 1000, 13, "magic"),
    ],
)
def test_what_is_no_archive_fails_with_exit_code_13_and_a_hint(data: bytes, code: int, said: str, run: Run) -> None:
    Path("x.tar").write_bytes(data)
    outcome = run("import x.tar")
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert "hint" in outcome.err


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("import", 2),
        ("import ''", 2),
        ("import missing.tar", 10),
        ("import .", 2),
        ("import ftp://host/x.tar", 2),
        ("import s3://x.tar", 2),
        ("import 's3://user:word@bucket/x.tar'", 2),
        ("import x.tar --part 1000", 2),
        ("import x.tar --part 0", 10),
        ("import - --part 0", 2),
        ("import x.tar --mode read", 2),
    ],
)
def test_a_name_that_leads_nowhere_is_said_to(line: str, code: int, run: Run) -> None:
    Path("x.tar").write_bytes(oci_tar())
    outcome = run(line)
    assert outcome.code == code, outcome
    assert "word" not in outcome.err


# --- pipes


@pytest.mark.parametrize("data", [oci_tar(), plain_tar(), zstd.compress(plain_tar())], ids=["oci", "plain", "zstd"])
def test_stdin_is_imported(data: bytes, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CI_MODELCACHE_STORE": str(tmp_path / "store")}
    done = subprocess.run(
        [sys.executable, "-m", "ci_modelcache", "import", "-"],
        input=data,
        env=environ,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout.decode()) == (0, f"{PINNED}\n"), done.stderr
    require_imported(tmp_path)


def test_an_import_that_was_killed_stores_the_rest_when_it_runs_again(tmp_path: Path) -> None:
    """Nothing is in the state folder, and what of the pipe was in the store by then is not stored again."""
    large = random.Random(5).randbytes(33 << 20)
    contents = {**CONTENTS, "weights.bin": large}
    data = plain_tar(contents)
    stop = data.index(large[:1000]) + len(large) + 600
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CI_MODELCACHE_STORE": str(tmp_path / "store")}
    line = [sys.executable, "-m", "ci_modelcache", "import", "-", "--json"]
    blob = tmp_path / "store" / "blobs/sha256" / _fanned(large)
    with subprocess.Popen(line, env=environ, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as killed:
        assert killed.stdin is not None
        killed.stdin.write(data[:stop])
        killed.stdin.flush()
        end = time.monotonic() + 100
        while not blob.exists() and time.monotonic() < end:
            time.sleep(0.05)
        killed.kill()
    assert blob.exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "state" in path.parts] == []
    done = subprocess.run(line, input=data, env=environ, capture_output=True, timeout=100, check=True)
    assert json.loads(done.stdout)["bytes_uploaded"] == sum(map(len, CONTENTS.values()))
    store = cache_in(DirectoryStore(tmp_path / "store", create=False))
    require_restorable(store, manifest_of(contents))


def _fanned(data: bytes) -> str:
    digest = Digest.of(data).hex
    return f"{digest[:2]}/{digest[2:4]}/{digest}"


def test_a_named_pipe_is_imported(run: Run, tmp_path: Path) -> None:
    os.mkfifo("pipe")
    with subprocess.Popen(["sh", "-c", "cat > pipe"], stdin=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        writer.stdin.write(oci_tar())
        writer.stdin.close()
        assert run("import pipe").code == 0
    require_imported(tmp_path)


# --- parts


@pytest.mark.parametrize("name", ["x.tar", "x.tar.000", "x.tar.002", "x.tar.sha256s"])
@pytest.mark.parametrize("packed", [bytes, zstd.compress], ids=["tar", "zstd"])
def test_parts_beside_each_other_are_one_archive(
    name: str, packed: Callable[[bytes], bytes], run: Run, tmp_path: Path
) -> None:
    contents = {**CONTENTS, "weights.bin": random.Random(2).randbytes(20_000)}
    write_parts(Path(), packed(oci_tar(contents)))
    assert run(f"import {name}").code == 0
    assert len(list((tmp_path / "store/refs").rglob("*.json"))) == 1


def test_parts_without_their_sums_are_taken_as_far_as_they_go(run: Run) -> None:
    *parts, sums = write_parts(Path(), oci_tar())
    sums.unlink()
    assert run("import x.tar.000").code == 0
    for part in parts[2:]:
        part.unlink()
    outcome = run("import x.tar.000")
    assert outcome.code == 13
    assert "broken off" in outcome.err


def test_a_part_that_the_sums_name_and_that_is_not_there_is_a_miss(run: Run) -> None:
    write_parts(Path(), oci_tar())[2].unlink()
    outcome = run("import x.tar")
    assert outcome.code == 10
    assert "x.tar.002" in outcome.err


def test_parts_that_come_one_by_one_are_imported_with_the_last(run: Run, tmp_path: Path) -> None:
    """In any order, each from a medium of its own; what is kept is gone afterwards."""
    *parts, sums = write_parts(tmp_path / "work", oci_tar())
    numbers = list(range(len(parts)))
    random.Random(3).shuffle(numbers)
    said: list[Outcome] = []
    for count, number in enumerate(numbers, 1):
        medium = tmp_path / f"medium{number}"
        medium.mkdir()
        for file in (parts[number], sums):
            (medium / file.name).write_bytes(file.read_bytes())
        said.append(run(f"import {medium}/x.tar --part {number} --json"))
        assert said[-1].code == 0, said
        if count < len(parts):
            assert said[-1].json["missing"] == sorted(set(numbers) - set(numbers[:count]))
            assert said[-1].json["parts"] == len(parts)
    assert said[-1].json["models"][0]["ref"] == PINNED
    require_imported(tmp_path)
    assert list((tmp_path / "state").rglob("0*")) == []


def test_a_part_that_is_not_as_its_sum_says_is_refused_and_not_kept(run: Run, tmp_path: Path) -> None:
    parts = write_parts(Path(), oci_tar())
    parts[1].write_bytes(bytes(SPLIT))
    outcome = run("import x.tar --part 1")
    assert outcome.code == 13
    assert "copy that part again" in outcome.err
    assert [path for path in (tmp_path / "state").rglob("*") if path.is_file()] == []


def test_a_part_is_kept_once(run: Run) -> None:
    write_parts(Path(), oci_tar())
    assert "missing: 0, 2" in run("import x.tar --part 1").err
    Path(part_name("x.tar", 1)).write_bytes(bytes(SPLIT))
    assert run("import x.tar.001 --part 1").code == 0


@pytest.mark.parametrize(
    "sums", [b"", b"x\n", b"a" * 64 + b"  x.tar\n", b"a" * 64 + b"  ../x.tar.000\n" + b"a" * 64 + b"  x.tar\n"]
)
def test_sums_that_are_none_are_refused(sums: bytes, run: Run) -> None:
    write_parts(Path(), oci_tar())[-1].write_bytes(sums)
    assert run("import x.tar").code == 13


# --- objects


def test_an_object_is_imported_and_so_are_parts_that_are_objects(
    run: Run, tmp_path: Path, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    monkeypatch.setenv("CI_MODELCACHE_ENDPOINT_URL", seaweedfs_server.endpoint)
    monkeypatch.setenv("CI_MODELCACHE_REGION", REGION)
    folder = f"s3://{BUCKET}/{tmp_path.name}"
    store = open_store(folder, endpoint_url=seaweedfs_server.endpoint, region=REGION, retry=RetryPolicy())
    data = oci_tar()
    store.write("x.tar", [data], size=len(data))
    for part in write_parts(Path(), zstd.compress(data), "y.tar.zst"):
        store.write(part.name, [part.read_bytes()], size=part.stat().st_size)
    assert run(f"import {folder}/x.tar").code == 0
    require_imported(tmp_path)
    assert run(f"import {folder}/y.tar.zst --store {tmp_path}/second").code == 0
    require_restorable(cache_in(DirectoryStore(tmp_path / "second", create=False)))
    assert run(f"import {folder}/missing.tar").code == 10
    into = f"{folder}/store"
    assert run(f"import x.tar.missing --store {into}").code == 10
    Path("x.tar").write_bytes(data)
    assert run(f"import x.tar --store {into}").code == 0
    require_restorable(
        cache_in(open_store(into, endpoint_url=seaweedfs_server.endpoint, region=REGION, retry=RetryPolicy()))
    )


@pytest.mark.parametrize("of", ["oci", "plain"])
def test_what_went_to_a_bucket_packed_and_in_parts_comes_back_bit_by_bit(
    of: str, run: Run, tmp_path: Path, seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    files = {"config.json": b"{}", "sub/weights.bin": random.Random(1).randbytes(3_000_000)}
    write_files(Path("in"), files)
    archive = f"s3://{BUCKET}/{tmp_path.name}/x.tar.zst?endpoint_url={seaweedfs_server.endpoint}&region={REGION}"
    assert run("save in org/mine@v1").code == 0
    assert run(f"export org/mine@v1 --format {of} --zstd --split 1M -o '{archive}'").code == 0
    outcome = run(f"import '{archive}' --store {tmp_path}/other --json")
    assert outcome.code == 0, outcome
    assert run(f"restore {outcome.json['models'][0]['ref']} --to out --offline --store {tmp_path}/other").code == 0
    assert {path: data for path, data in files_in(Path("out")).items() if not path.startswith(".")} == files
