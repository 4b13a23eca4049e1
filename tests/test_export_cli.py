"""`ci-modelcache export` as a job runs it: one sha256 everywhere, a whole archive or none, and nothing else on stdout."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve, frozen
from backports import zstd

from ci_modelcache.demo.model import REPO as MINILM
from tests.parts.documents import ROOT, blocks
from tests.parts.minilm import embed
from tests.parts.servers import ADMIN, BUCKET, REGION
from tests.parts.verbs import spoil, write_files

if TYPE_CHECKING:
    from tests.parts.servers import S3Server

FILES = {
    "config.json": b'{"a": 1}',
    "empty": b"",
    "modèle 模型.bin": b"foreign",
    "sub/" + "long/" * 60 + "end.txt": b"deep",
    "weights.safetensors": random.Random(4).randbytes(3_000_000),
}
MINE, OTHER = "org/mine@v1", "org/other@v1"
PYTHONS = {"this": Path(sys.executable)} | {
    path.parent.parent.name: path
    for path in sorted(Path("~/.pyenv/versions").expanduser().glob("3.1[1-9].*/bin/python"))
}
"""This one, and every one from 3.11 on that pyenv has."""
PATIENCE = 60
"""Seconds after which a test says that something hangs."""


@frozen
class Shell:
    """Runs ``ci-modelcache`` in a process of its own, with *environ* and nothing of ours."""

    environ: dict[str, str]
    cwd: Path
    python: Path = PYTHONS["this"]

    def start(self, *argv: str | Path, **how: Any) -> subprocess.Popen[bytes]:
        command = [str(self.python), "-m", "ci_modelcache", *map(str, argv)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.Popen(command, env=self.environ, cwd=self.cwd, **streams)

    def run(self, *argv: str | Path, **how: Any) -> tuple[int, bytes, str]:
        """Exit code, stdout and stderr."""
        with self.start(*argv, **how) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, (err or b"").decode()

    def done(self, *argv: str | Path, **how: Any) -> bytes:
        """The stdout of a command that must succeed."""
        code, out, err = self.run(*argv, **how)
        assert code == 0, err
        return out

    def report(self, *argv: str | Path) -> dict[str, Any]:
        """The JSON of a command that must succeed."""
        answer: dict[str, Any] = json.loads(self.done(*argv, "--json"))
        return answer

    def with_(self, **environ: str) -> Shell:
        return evolve(self, environ={**self.environ, **environ})


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell whose store holds `MINE` and `OTHER`; the Hub that it would ask is nobody."""
    folder = tmp_path_factory.mktemp("shell")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "LC_ALL": "C.utf8",
    }
    shell = Shell(environ, folder)
    shell.done("save", write_files(folder / "mine", FILES), MINE)
    shell.done("save", write_files(folder / "other", {"config.json": b"{}"}), OTHER)
    return shell


@pytest.fixture
def here(shell: Shell, tmp_path: Path) -> Shell:
    """The same in an empty folder."""
    return evolve(shell, cwd=tmp_path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- the same bytes


def in_format(shell: Shell, name: str) -> str:
    digest: str = shell.report("export", MINE, "-o", f"right-{name}.tar", "--format", name)["sha256"]
    return digest


@pytest.fixture(scope="module")
def rights(shell: Shell) -> dict[str, str]:
    """The sha256 of the archive of `MINE`, in each format."""
    return {name: in_format(shell, name) for name in ("oci", "plain")}


@pytest.fixture(scope="module")
def right(rights: dict[str, str]) -> str:
    """The one that is made when no format is named."""
    return rights["oci"]


BOTH = """
import sys
from ci_modelcache.cli.main import main

for name in ("oci", "plain"):
    if main(["export", sys.argv[1], "-o", f"{name}.tar", "--format", name]):
        sys.exit(f"no {name}")
"""


@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)
@pytest.mark.parametrize(("locale", "umask"), [("C", 0o022), ("C.utf8", 0o077)])
def test_every_python_locale_umask_and_time_zone_makes_one_archive(
    python: Path, locale: str, umask: int, here: Shell, rights: dict[str, str]
) -> None:
    """The whole command under another Python, with the packages of this one: all of them are pure Python."""
    packages = os.pathsep.join([sysconfig.get_path("purelib"), str(ROOT)])
    other = here.with_(
        LC_ALL=locale, TZ="Asia/Tokyo", PYTHONPATH=packages, PYTHONHASHSEED=str(umask), PYTHONDONTWRITEBYTECODE="1"
    )
    command = [str(python), "-c", BOTH, MINE]
    done = subprocess.run(
        command, env=other.environ, cwd=here.cwd, umask=umask, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {name: sha256(here.cwd / f"{name}.tar") for name in rights} == rights
    assert done.stdout == "".join(f"{right}  {here.cwd}/{name}.tar\n" for name, right in rights.items())


def test_what_is_printed_is_what_sha256sum_checks(here: Shell) -> None:
    (here.cwd / "sums").write_bytes(here.done("export", MINE, "-o", "x.tar"))
    subprocess.run(["sha256sum", "--strict", "-c", "sums"], cwd=here.cwd, check=True, capture_output=True)


def test_an_s3_store_makes_the_same_archive_as_a_folder(seaweedfs_server: S3Server, here: Shell, right: str) -> None:
    remote = at_s3(here, seaweedfs_server, "export")
    remote.done("save", write_files(here.cwd / "mine", FILES), MINE)
    assert remote.report("export", MINE, "-o", "x.tar")["sha256"] == right
    assert hashlib.sha256(remote.done("export", MINE, "-o", "-")).hexdigest() == right


def at_s3(shell: Shell, server: S3Server, prefix: str) -> Shell:
    return shell.with_(
        CI_MODELCACHE_STORE=f"s3://{BUCKET}/{prefix}",
        AWS_ENDPOINT_URL=server.endpoint,
        AWS_REGION=REGION,
        AWS_ACCESS_KEY_ID=ADMIN[0],
        AWS_SECRET_ACCESS_KEY=ADMIN[1],
    )


def test_the_real_model_computes_the_same_after_tar_and_sha256sum_alone(model: Path, here: Shell) -> None:
    own = here.with_(CI_MODELCACHE_STORE=str(here.cwd / "store"))
    own.done("save", model, f"{MINILM}@main")
    report = own.report("export", MINILM, "-o", "model.tar", "--format", "plain")
    subprocess.run(["tar", "xf", "model.tar"], cwd=here.cwd, check=True)
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=here.cwd, check=True)
    commit = report["models"][0]["commit"]
    snapshot = here.cwd / "127.0.0.1%3A9" / "model" / MINILM / commit
    assert {path.relative_to(model) for path in model.rglob("*")} == {
        path.relative_to(snapshot) for path in snapshot.rglob("*")
    }
    eating, bread = embed(snapshot, "A man is eating food."), embed(snapshot, "A man is eating a piece of bread.")
    assert float(eating @ bread) == pytest.approx(0.7553, abs=1e-4)


# --- which models


def test_without_a_ref_the_lock_is_exported_and_without_a_lock_the_project(here: Shell) -> None:
    one, both = '[[models]]\nrepo = "org/mine"\nrevision = "v1"\n', '[[models]]\nrepo = "org/other"\nrevision = "v1"\n'
    (here.cwd / "modelcache.toml").write_text(one + both)
    of_project = here.report("export", "-o", "project.tar")
    assert [model["ref"] for model in of_project["models"]] == [MINE, OTHER]
    here.done("lock")
    of_lock = here.report("export", "-o", "lock.tar")
    assert of_lock["sha256"] == of_project["sha256"]
    (here.cwd / "modelcache.toml").write_text(one)
    code, _, err = here.run("export", "-o", "stale.tar")
    assert (code, (here.cwd / "stale.tar").exists()) == (2, False)
    assert "does not match" in err
    assert len(here.report("export", "--no-locked", "-o", "project.tar")["models"]) == 1
    assert here.report("export", OTHER, "-o", "named.tar")["models"][0]["ref"] == OTHER


def test_variables_name_models_patterns_and_the_archive(here: Shell) -> None:
    given = here.with_(
        CI_MODELCACHE_MODELS=f"{OTHER}\n{MINE}",
        CI_MODELCACHE_INCLUDE="*.json *.none",
        CI_MODELCACHE_OUTPUT="named.tar",
    )
    report = given.report("export")
    assert [model["ref"] for model in report["models"]] == [OTHER, MINE]
    assert report["files"] == 2
    assert report["path"] == str(here.cwd / "named.tar")
    assert given.with_(CI_MODELCACHE_OUTPUT="").run("export")[0] == 2


def test_a_miss_has_exit_code_10_and_says_what_would_help(here: Shell) -> None:
    code, out, err = here.run("export", MINE, "org/none", "-o", "x.tar")
    assert (code, out) == (10, b"")
    assert "ci-modelcache fetch org/none@main" in err
    assert names(here.cwd) == []


@pytest.mark.parametrize("output", ["", "s3://", "s3://bucket", "http://127.0.0.1:9/x.tar", "/dev/null", "."])
def test_what_is_no_file_is_refused(output: str, here: Shell) -> None:
    assert here.run("export", MINE, "-o", output)[0] == 2
    assert names(here.cwd) == []
    assert not Path("/dev/null").is_file()


def test_a_ci_job_learns_where_the_archive_is(here: Shell) -> None:
    (here.cwd / "out").touch()
    here.with_(GITHUB_ACTIONS="true", GITHUB_OUTPUT=str(here.cwd / "out")).done("export", MINE, "-o", "x.tar")
    lines = (here.cwd / "out").read_text().splitlines()
    values = {line.partition("<<")[0]: lines[number + 1] for number, line in enumerate(lines) if "<<" in line}
    assert (values["path"], values["result"], values["cache-hit"]) == (str(here.cwd / "x.tar"), "hit", "true")


# --- only what is new, packed, in parts


def test_what_earlier_archives_and_locks_have_is_left_out(here: Shell) -> None:
    own = here.with_(CI_MODELCACHE_STORE=str(here.cwd / "store"))
    own.done("save", write_files(here.cwd / "one", FILES), "org/one@v1")
    own.done("save", write_files(here.cwd / "two", {**FILES, "config.json": b"{}"}), "org/one@v2")
    own.done("export", "org/one@v1", "-o", "old.tar", "--split", "1MB", "--include", "*.safetensors")
    (here.cwd / "modelcache.toml").write_text('[[models]]\nrepo = "org/one"\nrevision = "v1"\n')
    own.done("lock")
    report = own.report("export", "org/one@v2", "-o", "new.tar", "--since", "old.tar.000")
    assert (report["files"], report["left_out"], len(report["since"])) == (len(FILES) - 1, 1, 64)
    assert report["size"] < 30_000
    named = own.with_(CI_MODELCACHE_SINCE="old.tar modelcache.lock").report("export", "org/one@v2", "-o", "new.tar")
    assert (named["files"], named["left_out"]) == (1, len(FILES) - 1)


def test_the_script_of_the_guide_completes_a_plain_delta_by_hand(here: Shell) -> None:
    (script,) = blocks((ROOT / "docs" / "export.md").read_text(), "bash")
    own = here.with_(CI_MODELCACHE_STORE=str(here.cwd / "store"), CI_MODELCACHE_FORMAT="plain")
    own.done("save", write_files(here.cwd / "one", FILES), "org/one@v1")
    own.done("save", write_files(here.cwd / "two", {**FILES, "config.json": b"{}"}), "org/one@v2")
    own.done("export", "org/one@v1", "-o", "base.tar")
    own.done("export", "org/one@v2", "-o", "delta.tar", "--since", "base.tar")
    for name in ("base", "delta"):
        (here.cwd / name).mkdir()
        subprocess.run(["tar", "xf", f"../{name}.tar"], cwd=here.cwd / name, check=True)
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=here.cwd, check=True, capture_output=True)
    (commit,) = (here.cwd / "delta").glob("*/model/org/one/*.json")
    found = {path.relative_to(commit.with_suffix("")).as_posix(): path for path in commit.with_suffix("").rglob("*")}
    assert {path: found[path].read_bytes() for path in FILES} == {**FILES, "config.json": b"{}"}


def test_half_an_archive_is_nothing_that_a_delta_could_build_on(here: Shell) -> None:
    here.done("export", MINE, "-o", "old.tar")
    (here.cwd / "half.tar").write_bytes((here.cwd / "old.tar").read_bytes()[:100_000])
    code, _, err = here.run("export", MINE, "-o", "x.tar", "--since", "half.tar")
    assert (code, (here.cwd / "x.tar").exists(), "broken off" in err) == (13, False, True)
    assert here.run("export", MINE, "-o", "x.tar", "--since", "none.tar")[0] == 10


def test_parts_and_packed_archives_are_the_same_bytes_to_cat_zstd_and_sha256sum(here: Shell, right: str) -> None:
    report = here.report("export", MINE, "-o", "x.tar", "--split", "1MB")
    assert [each["size"] for each in report["written"]] == [1_000_000] * 3 + [report["size"] - 3_000_000]
    command = "cat x.tar.[0-9]* | sha256sum && sha256sum --strict --quiet -c x.tar.sha256s --ignore-missing"
    said = subprocess.run(["sh", "-c", command], cwd=here.cwd, check=True, capture_output=True, text=True).stdout
    assert said == f"{right}  -\n"
    assert report["sha256"] == right
    packed = here.report("export", MINE, "-o", "x.tar.zst", "--zstd")
    assert packed["sha256"] == right
    ((written),) = packed["written"]
    assert (written["sha256"], written["name"]) == (sha256(here.cwd / "x.tar.zst"), str(here.cwd / "x.tar.zst"))
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress((here.cwd / "x.tar.zst").read_bytes()))) as archive:
        assert archive.getnames()[:2] == ["oci-layout", "index.json"]


def test_what_is_printed_of_parts_is_what_sha256sum_checks(here: Shell) -> None:
    (here.cwd / "sums").write_bytes(here.done("export", MINE, "-o", "x.tar.zst", "--zstd", "--split", "1MiB"))
    subprocess.run(["sha256sum", "--strict", "-c", "sums"], cwd=here.cwd, check=True, capture_output=True)
    assert (here.cwd / "sums").read_text().count("\n") == 3


@pytest.mark.parametrize("size", ["0", "many"])
def test_a_size_of_parts_that_is_none_is_refused(size: str, here: Shell) -> None:
    assert here.run("export", MINE, "-o", "x.tar", "--split", size)[0] == 2
    assert names(here.cwd) == []


# --- stdout


def test_a_pipe_gets_the_archive_and_nothing_else(here: Shell, right: str) -> None:
    code, out, err = here.run("export", MINE, "--output", "-")
    assert (code, hashlib.sha256(out).hexdigest()) == (0, right)
    assert right in err
    assert names(here.cwd) == []


def test_json_is_refused_where_the_archive_goes(here: Shell) -> None:
    for line in (("export", MINE, "-o", "-", "--json"), ("--json", "export", MINE, "-o", "-")):
        code, out, _ = here.run(*line)
        assert code == 2
        assert json.loads(out)["error"]["type"] == "ConfigError"


def test_a_terminal_and_a_closed_stdout_are_refused(here: Shell) -> None:
    ours, theirs = pty.openpty()
    try:
        code, _, err = here.run("export", MINE, "-o", "-", stdout=theirs)
    finally:
        os.close(theirs)
        os.close(ours)
    assert (code, "is a terminal" in err) == (2, True)
    command = ["sh", "-c", f"exec {sys.executable} -m ci_modelcache export {MINE} -o - >&-"]
    done = subprocess.run(command, env=here.environ, cwd=here.cwd, capture_output=True, text=True, check=False)
    assert (done.returncode, "is closed" in done.stderr) == (2, True)


def test_a_full_disk_behind_stdout_is_no_space(here: Shell) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = here.run("export", MINE, "-o", "-", stdout=full)
    assert (code, "No space left" in err, "Traceback" in err) == (14, True, False)


def test_a_reader_that_ends_early_is_a_failure_and_no_bug(here: Shell) -> None:
    with here.start("export", MINE, "-o", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait(PATIENCE) == 1
    assert "Broken pipe" in err
    assert "Traceback" not in err
    assert "bug" not in err


def test_a_reader_that_stops_reading_costs_no_more_than_the_deadline(here: Shell) -> None:
    with here.start("export", MINE, "-o", "-", "--deadline", "3s") as process:
        assert process.stdout is not None
        assert process.wait(PATIENCE) == 15
        assert len(process.stdout.read()) < 3_000_000


def damaged(here: Shell) -> Shell:
    """The same with a store of its own in which the last file has wrong bytes."""
    own = here.with_(CI_MODELCACHE_STORE=str(here.cwd / "store"))
    own.done("save", write_files(here.cwd / "mine", FILES), MINE)
    digest = hashlib.sha256(FILES["weights.safetensors"]).hexdigest()
    spoil(here.cwd / f"store/blobs/sha256/{digest[:2]}/{digest[2:4]}/{digest}")
    return own


def test_wrong_bytes_have_exit_code_13_and_no_archive(here: Shell) -> None:
    own = damaged(here)
    before = names(here.cwd)
    code, out, err = own.run("export", MINE, "-o", "x.tar", "--json")
    error = json.loads(out)["error"]
    assert (code, error["type"], error["exit_code"]) == (13, "DigestMismatch", 13)
    assert names(here.cwd) == before, err


def test_a_broken_stream_is_cut_off_and_said_to_be(here: Shell) -> None:
    code, out, err = damaged(here).run("export", MINE, "-o", "-")
    assert code == 13
    assert "cut off" in err
    assert 0 < len(out) < 100_000
    assert FILES["weights.safetensors"][1:1000] not in out
    assert subprocess.run(["tar", "tf", "-"], input=out, capture_output=True, check=False).returncode != 0


# --- kills, memory


@pytest.fixture
def slow(here: Shell, seaweedfs_server: S3Server) -> Shell:
    """A shell in which an export takes seconds: twelve files from a store elsewhere, at 3 MB/s."""
    files = {f"{number:02}.bin": random.Random(number).randbytes(1_000_000) for number in range(12)}
    remote = at_s3(here, seaweedfs_server, "slow")
    folder = write_files(here.cwd / "files", files)
    remote.done("save", folder, "org/slow@v1")
    shutil.rmtree(folder)
    return remote.with_(
        CI_MODELCACHE_LIMIT_RATE="3MB", CI_MODELCACHE_OUTPUT="x.tar", CI_MODELCACHE_MODELS="org/slow@v1"
    )


@pytest.mark.parametrize("after", [1, 5_000_000, 10_000_000])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_a_killed_export_leaves_no_archive_and_the_next_one_completes_it(
    slow: Shell, after: int, how: signal.Signals
) -> None:
    def written() -> int:
        return sum(path.stat().st_size for path in slow.cwd.glob("x.tar.partial"))

    with slow.start("export", stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + PATIENCE
        while written() < after:
            assert process.poll() is None, "it was faster than the rate allows"
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(how)
        assert process.wait(PATIENCE) == (-how if how is signal.SIGKILL else 130)
    assert names(slow.cwd) == ["x.tar.partial"]
    report = slow.with_(CI_MODELCACHE_LIMIT_RATE="").report("export")
    assert names(slow.cwd) == ["x.tar"]
    assert sha256(slow.cwd / "x.tar") == report["sha256"]


def test_memory_does_not_grow_with_the_file(here: Shell) -> None:
    """320 MiB of a file, and less than that of memory (DESIGN: 256 MiB)."""
    size = 320 << 20
    (here.cwd / "large").mkdir()
    with (here.cwd / "large" / "large.bin").open("wb") as file:
        file.truncate(size)
    own = here.with_(CI_MODELCACHE_STORE=str(here.cwd / "store"))
    own.done("save", "large", "org/large@v1")
    # Not getrusage: its peak counts that of the parent before exec.
    program = (
        "import sys; from pathlib import Path; from ci_modelcache.cli.main import main; code = main(sys.argv[1:]);"
        "print(Path('/proc/self/status').read_text(), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "export", "org/large@v1", "-o", "-", "--quiet"]
    done = subprocess.run(command, env=own.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stderr.decode(), re.MULTILINE)
    assert int(peak) < 256 << 10
