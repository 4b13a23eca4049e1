"""`ci-modelcache presign`, and restores by what it wrote, as jobs and builds run them: on a real store, each in a process of its own."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pty
import random
import shlex
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve, frozen

from ci_modelcache.cache.presigning import objects_of
from ci_modelcache.cache.records import CondemnedRecord
from ci_modelcache.cache.urls import ObjectUrl, UrlList, moment
from ci_modelcache.cli.main import main
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import ObjectNotFound, SizeMismatch
from ci_modelcache.model.document import to_json
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.verbs import presign as verb
from tests.parts.cached import BLOBS, MANIFEST, SNAPSHOT, cache_in, publish
from tests.parts.documents import ROOT, blocks, rows
from tests.parts.faults import Fault, Relay
from tests.parts.messages import messages
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, S3Server
from tests.parts.stores import MemoryStore
from tests.parts.urls import GOLDEN, secrets_of
from tests.parts.verbs import files_in, write_files

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Digest
    from ci_modelcache.stores.protocol import Store

FILES = {
    "config.json": b'{"a": 1}',
    "empty": b"",
    "page.html": b"<html>of the model, no login page</html>",
    "sub/modèle 1.bin": b"foreign",
    "weights.safetensors": random.Random(4).randbytes(3_000_000),
}
MINE, OTHER = "org/mine@v1", "org/other@v1"
PATIENCE = 100
"""Seconds after which a test says that something hangs."""
TOKEN = "session-token-of-this-job"
_prefixes = map("presign-{}".format, itertools.count())


@frozen
class Shell:
    """Runs ``ci-modelcache`` with *environ* and nothing of ours: in this process, or `apart` in one of its own."""

    environ: dict[str, str]
    cwd: Path
    capture: Any = None

    def run(self, line: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self.capture.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ:
                patch.delenv(name)
            for name, value in self.environ.items():
                patch.setenv(name, value)
            patch.chdir(self.cwd)
            code = main(shlex.split(line))
        out, err = self.capture.readouterr()
        return code, out, err

    def apart(self, line: str, **streams: Any) -> tuple[int, str, str]:
        """The same in a process of its own."""
        command = [sys.executable, "-m", "ci_modelcache", *shlex.split(line)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        done = subprocess.run(
            command, env=self.environ, cwd=self.cwd, text=True, timeout=PATIENCE, check=False, **streams
        )
        return done.returncode, done.stdout or "", done.stderr or ""

    def done(self, line: str) -> str:
        """The stdout of a command that must succeed."""
        code, out, err = self.run(line)
        assert code == 0, err
        return out

    def report(self, line: str) -> Any:
        return json.loads(self.done(f"{line} --json"))

    def with_(self, **environ: str) -> Shell:
        return evolve(self, environ={**self.environ, **environ})

    def without(self, *names: str) -> Shell:
        return evolve(self, environ={name: value for name, value in self.environ.items() if name not in names})

    def listed(self, name: str = "urls.json") -> UrlList:
        return UrlList.from_json((self.cwd / name).read_bytes(), name)


def environment(endpoint: str, store: str) -> dict[str, str]:
    """That of a job with credentials; the Hub that it would ask is nobody."""
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.utf8",
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": ADMIN[0],
        "AWS_SECRET_ACCESS_KEY": ADMIN[1],
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": REGION,
        "CI_MODELCACHE_STORE": store,
        "CI_MODELCACHE_ENDPOINT_URL": endpoint,
    }


@pytest.fixture(scope="module")
def filled(seaweedfs_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that has `MINE` and `OTHER`, which no test changes."""
    folder, store = tmp_path_factory.mktemp("filled"), f"s3://{BUCKET}/{next(_prefixes)}"
    shell = Shell({**environment(seaweedfs_server.endpoint, store), "HOME": str(folder)}, folder)
    for name, files in ((MINE, FILES), (OTHER, {"config.json": b"{}"})):
        code, _, err = shell.apart(f"save {write_files(folder / name[4:-3], files)} {name}")
        assert code == 0, err
    return store


@pytest.fixture
def job(relay: Relay, filled: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    """A job whose store has `MINE` and `OTHER`, seen through the relay."""
    (tmp_path / "work").mkdir()
    return Shell({**environment(relay.endpoint, filled), "HOME": str(tmp_path / "home")}, tmp_path / "work", capfd)


@pytest.fixture
def own(job: Shell) -> Shell:
    """The same with a store of its own, which is empty."""
    return job.with_(CI_MODELCACHE_STORE=f"s3://{BUCKET}/{next(_prefixes)}")


@pytest.fixture
def build(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    """A build: no credentials, no setting of a store, no variable of AWS."""
    (tmp_path / "image").mkdir()
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9", "LC_ALL": "C.utf8", "HOME": str(tmp_path / "root")}
    return Shell(environ, tmp_path / "image", capfd)


def given(job: Shell, build: Shell, line: str = f"presign {MINE}") -> Path:
    """The list that *job* writes by *line*, where *build* finds it as a secret."""
    secret = build.cwd.parent / "secrets" / "urls"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text(job.done(line))
    return secret


# --- a build


def test_a_build_restores_without_any_variable_of_a_store_and_asks_for_nothing_that_is_not_listed(
    job: Shell, build: Shell, relay: Relay
) -> None:
    """Also without boto3, which is the slowest of our imports and of no use there."""
    secret = given(job, build)
    for name in ("boto3", "botocore"):
        (build.cwd / f"{name}.py").write_text(f"raise ImportError('{name} is not installed here')\n")
    # Where our notes go, and the Hub that the model has its name from: nothing else is set.
    named = {name: build.environ[name] for name in ("HOME", "HF_ENDPOINT")}
    bare = Shell({"PYTHONPATH": f"{build.cwd}:{ROOT}", **named}, build.cwd)
    relay.seen.clear()
    code, path, err = bare.apart(f"restore --from-urls {secret} --to out --offline")
    assert code == 0, err
    assert files_in(Path(path.strip())) == FILES
    assert path == f"{build.cwd}/out/org/mine\n"
    urls = {found.url for found in UrlList.from_json(secret.read_bytes(), "urls").objects.values()}
    assert relay.seen
    assert {f"{relay.endpoint}{path}" for _, path in relay.seen} <= urls
    assert {method for method, _ in relay.seen} == {"GET"}


def test_what_is_complete_already_costs_no_request(job: Shell, build: Shell, relay: Relay) -> None:
    secret = given(job, build)
    build.done(f"restore --from-urls {secret} --to out")
    relay.seen.clear()
    (report,) = build.report(f"restore --from-urls {secret} --to out")["snapshots"]
    assert report["result"] == "local"
    assert relay.count("GET", "/blobs/") == 0


def test_the_hub_cache_is_filled_so_that_libraries_find_the_name(job: Shell, build: Shell) -> None:
    secret = given(job, build)
    (report,) = build.report(f"restore --from-urls {secret} --hub-cache hub")["snapshots"]
    folder = build.cwd / "hub/models--org--mine"
    assert (folder / "refs/v1").read_text() == report["commit"]
    assert (report["result"], report["anchor"], report["saved"]) == ("hit", "store", False)
    assert report["source"] == job.environ["CI_MODELCACHE_STORE"]


def test_a_branch_that_moves_meanwhile_changes_nothing(own: Shell, build: Shell) -> None:
    """The list says what it meant; what it means now is not in it."""
    own.done(f"save {write_files(own.cwd / 'old', {'config.json': b'old'})} {MINE}")
    secret = given(own, build)
    own.done(f"save {write_files(own.cwd / 'new', {'config.json': b'new'})} {MINE}")
    path = build.done(f"restore --from-urls {secret} --to out --revision-ttl 0s --offline").strip()
    assert files_in(Path(path)) == {"config.json": b"old"}


def test_variables_name_the_file_and_the_store_of_the_settings_does_not_count(job: Shell, build: Shell) -> None:
    secret = given(job, build)
    told = build.with_(CI_MODELCACHE_FROM_URLS=str(secret), CI_MODELCACHE_STORE="s3://nowhere/at-all")
    assert files_in(Path(told.done(f"restore {MINE} --to out").strip())) == FILES


def test_the_models_of_the_list_are_restored_with_their_patterns(job: Shell, build: Shell) -> None:
    secret = given(job, build, f"presign {MINE} --include '*.json' --include 'sub/*'")
    (report,) = build.report(f"restore --from-urls {secret} --to out")["snapshots"]
    assert sorted(files_in(build.cwd / "out/org/mine")) == ["config.json", "sub/modèle 1.bin"]
    assert report["selection"] != "all"
    blobs = [key for key in UrlList.from_json(secret.read_bytes(), "urls").objects if key.startswith("blobs/")]
    assert len(blobs) == 2
    code, _, _ = build.run(f"restore {MINE} --from-urls {secret} --to whole --offline --fail-on-miss")
    assert code == 10


def test_lookup_only_says_what_can_be_restored_and_reads_no_blob(job: Shell, build: Shell, relay: Relay) -> None:
    secret = given(job, build)
    relay.seen.clear()
    assert build.done(f"restore --from-urls {secret} --lookup-only").startswith("hit org/mine@")
    assert build.done(f"restore {OTHER[:-3]}@{'0' * 40} --from-urls {secret} --lookup-only").startswith("miss ")
    assert relay.count("GET", "/blobs/") == 0


def test_what_is_not_listed_is_a_miss_and_is_fetched_where_that_is_allowed(
    own: Shell, build: Shell, relay: Relay
) -> None:
    with LoopbackHub() as hub:
        hub.add_repo("org/new", {"main": {"config.json": b"{}"}})
        hub.add_repo("org/mine", {"main": {"config.json": b"{}"}})
        at_hub = own.with_(HF_ENDPOINT=hub.url)
        at_hub.done("fetch org/mine")
        secret = given(at_hub, build, "presign org/mine")
        building = build.with_(HF_ENDPOINT=hub.url)
        relay.seen.clear()
        code, _, err = building.run(f"restore org/new --from-urls {secret} --to out --fail-on-miss")
        assert (code, "may not be asked" in err or "does not hold" in err) == (10, True), err
        (report,) = building.report(f"restore org/new --from-urls {secret} --to out")["snapshots"]
    assert (report["result"], report["saved"]) == ("miss", False)
    assert {method for method, _ in relay.seen} <= {"GET"}


def test_a_blob_that_the_store_lost_is_taken_from_upstream_or_is_a_miss(
    own: Shell, build: Shell, seaweedfs_server: S3Server
) -> None:
    with LoopbackHub() as hub:
        hub.add_repo("org/mine", {"main": FILES})
        at_hub = own.with_(HF_ENDPOINT=hub.url)
        at_hub.done("fetch org/mine")
        secret = given(at_hub, build, "presign org/mine")
        prefix = own.environ["CI_MODELCACHE_STORE"].rpartition("/")[2]
        digest = hashlib.sha256(FILES["weights.safetensors"]).hexdigest()
        admin(seaweedfs_server).delete_object(
            Bucket=BUCKET, Key=f"{prefix}/blobs/sha256/{digest[:2]}/{digest[2:4]}/{digest}"
        )
        building = build.with_(HF_ENDPOINT=hub.url)
        code, _, err = building.run(f"restore --from-urls {secret} --to out --fail-on-miss")
        assert (code, digest in err) == (10, True), err
        (report,) = building.report(f"restore --from-urls {secret} --to out")["snapshots"]
        assert (report["result"], report["mended"]) == ("hit", ["weights.safetensors"])
        code, _, err = at_hub.run("presign org/mine")
        assert (code, "it is weights.safetensors of org/mine@main" in err) == (10, True), err


def admin(server: S3Server) -> Any:
    import boto3  # noqa: PLC0415  # slow, and not needed by most tests here

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=REGION,
        aws_access_key_id=ADMIN[0],
        aws_secret_access_key=ADMIN[1],
    )


def test_a_tier_is_asked_before_the_urls_and_given_what_came(job: Shell, build: Shell, relay: Relay) -> None:
    secret = given(job, build)
    build.done(f"restore --from-urls {secret} --to one --tier tier")
    relay.seen.clear()
    build.done(f"restore --from-urls {secret} --to two --tier tier")
    assert files_in(build.cwd / "two/org/mine") == FILES
    assert relay.count("GET", "/blobs/") == 0


def test_a_rate_limit_holds_for_urls_too(job: Shell, build: Shell) -> None:
    secret = given(job, build)
    began = time.monotonic()
    build.done(f"restore --from-urls {secret} --to out --limit-rate 1MB")
    assert time.monotonic() - began > 2


# --- the lock


PROJECT = '[[models]]\nrepo = "org/mine"\nrevision = "v1"\n'


def test_the_lock_says_what_is_signed_and_what_is_restored(job: Shell, build: Shell) -> None:
    (job.cwd / "modelcache.toml").write_text(PROJECT + PROJECT.replace("mine", "other"))
    job.done("lock")
    secret = given(job, build, "presign")
    for name in ("modelcache.toml", "modelcache.lock"):
        (build.cwd / name).write_bytes((job.cwd / name).read_bytes())
    reports = build.report(f"restore --locked --from-urls {secret} --to out")["snapshots"]
    assert [(report["ref"], report["anchor"]) for report in reports] == [(MINE, "lock"), (OTHER, "lock")]
    assert files_in(build.cwd / "out/org/mine") == FILES
    for name in ("modelcache.toml", "modelcache.lock"):
        (build.cwd / name).unlink()
    reports = build.report(f"restore --from-urls {secret} --to again")["snapshots"]
    assert [(report["ref"], report["anchor"]) for report in reports] == [(MINE, "store"), (OTHER, "store")]


def test_a_list_of_other_bytes_than_the_lock_s_is_not_believed(job: Shell, own: Shell, build: Shell) -> None:
    (job.cwd / "modelcache.toml").write_text(PROJECT)
    job.done("lock")
    secret = given(job, build, "presign")
    listed = UrlList.from_json(secret.read_bytes(), "urls")
    large = next(key for key, found in listed.objects.items() if found.size == 3_000_000)
    own.done(f"save {write_files(job.cwd / 'evil', {'x.bin': bytes(3_000_000)})} org/evil@v1")
    evil = UrlList.from_json(given(own, build, "presign org/evil@v1").read_bytes(), "urls")
    other = next(found for found in evil.objects.values() if found.size == 3_000_000)
    secret.write_bytes(evolve(listed, objects={**listed.objects, large: other}).to_json())
    (build.cwd / "modelcache.lock").write_bytes((job.cwd / "modelcache.lock").read_bytes())
    code, _, err = build.run(f"restore --locked --from-urls {secret} --to out --offline")
    assert (code, "expected digest" in err) == (13, True), err
    assert not (build.cwd / "out/org/mine/weights.safetensors").exists()


# --- what goes wrong


def test_urls_that_have_ended_are_exit_code_12_with_the_command_that_makes_new_ones(job: Shell, build: Shell) -> None:
    # A busy machine needs seconds for the one URL that is tried before any is given.
    secret = given(job, build, f"presign {MINE} --expires 10s")
    ends = datetime.fromisoformat(json.loads(secret.read_text())["expires"]).timestamp()
    time.sleep(max(0.0, ends - time.time()) + 1.5)
    code, out, err = build.run(f"restore --from-urls {secret} --to out --offline -vv")
    assert code == 12
    assert "the URLs ended at 20" in err
    assert f"ci-modelcache presign {MINE} --expires" in err
    assert not secrets_of(out + err)
    assert not list((build.cwd / "out").rglob("*.json"))


@pytest.mark.parametrize("kind", ["cut", "answer"])
def test_cuts_and_refusals_of_a_busy_store_are_outlasted(kind: Any, job: Shell, build: Shell, relay: Relay) -> None:
    secret = given(job, build)
    relay.faults.append(Fault(kind, "GET", having="/blobs/", times=4, after=100_000, headers={"Retry-After": "1"}))
    path = build.done(f"restore --from-urls {secret} --to out").strip()
    assert files_in(Path(path)) == FILES
    assert relay.faults[0].times == 0


def test_a_store_that_falls_silent_costs_no_more_than_the_deadline(job: Shell, build: Shell, relay: Relay) -> None:
    secret = given(job, build)
    relay.faults.append(Fault("stall", "GET", having="/blobs/", times=99, after=0))
    began = time.monotonic()
    code, _, err = build.run(f"restore --from-urls {secret} --to out --deadline 4s --offline")
    assert code in {11, 15}, err
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--from-urls /run/secrets/no-such-urls", 2, "the secret no-such-urls was not given to this build"),
        ("--from-urls missing.json", 2, "there is no list of URLs"),
        ("--from-urls ''", 2, "--from-urls names no file"),
        ("--from-urls .", 2, "cannot be read"),
        ("--from-urls empty.json", 2, "is empty"),
        ("--from-urls broken.json", 13, "is not JSON"),
        ("--from-urls later.json", 2, "format 2"),
        ("--from-urls good.json --mode off", 2, "the mode is off"),
        ("--from-urls good.json --force-download", 2, "--from-urls"),
        ("--from-urls good.json --include x", 2, "none is named"),
        ("--from-urls good.json --locked", 2, "modelcache.lock"),
        ("--from-urls good.json --endpoint https://hub.internal", 2, "is of models of"),
    ],
)
def test_a_file_or_flag_that_makes_no_sense_is_said_to(
    line: str, code: int, said: str, job: Shell, build: Shell
) -> None:
    secret = given(job, build)
    for name, data in {
        "empty.json": b"\n",
        "broken.json": secret.read_bytes()[:-50],
        "later.json": b'{"format": 2}',
        "good.json": secret.read_bytes(),
    }.items():
        (build.cwd / name).write_bytes(data)
    found, out, err = build.run(f"restore --to out {line}")
    assert (found, said in err) == (code, True), err
    assert "hint:" in err
    assert not secrets_of(out + err)


def test_no_signature_is_in_any_output_report_log_or_file_of_a_job(job: Shell, build: Shell, relay: Relay) -> None:
    secret = given(job, build)
    assert secrets_of(secret.read_text())
    shown = [job.run(f"presign {MINE} -vv -o urls.json --json --report report.jsonl")]
    relay.faults.append(Fault("cut", "GET", having="/blobs/", after=10))
    in_ci = build.with_(GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY="summary.md", GITHUB_OUTPUT="output")
    for name in ("summary.md", "output"):
        (build.cwd / name).touch()
    shown += [in_ci.run(f"restore --from-urls {secret} --to out -vv --json --report report.jsonl")]
    signed = UrlList.from_json(secret.read_bytes(), "urls")
    forged = {key: ObjectUrl(found.size, found.url[:-8] + "0" * 8) for key, found in signed.objects.items()}
    secret.write_bytes(evolve(signed, objects=forged).to_json())
    shown += [in_ci.run(f"restore --from-urls {secret} --to no -vv {flag}") for flag in ("", "--json")]
    kept = [path for path in (*build.cwd.parent.rglob("*"), *job.cwd.rglob("*")) if path.is_file()]
    written = {
        path: path.read_bytes().decode("latin-1") for path in kept if path not in {secret, job.cwd / "urls.json"}
    }
    assert [code for code, _, _ in shown] == [0, 0, 12, 12]
    assert "X-Amz-Signature=***" in shown[1][2]
    assert "SignatureDoesNotMatch" in shown[2][2]
    for text in (*(text for _, *texts in shown for text in texts), *written.values()):
        assert not secrets_of(text)
        assert ADMIN[0] not in text


# --- presign


def test_the_list_is_on_stdout_and_what_it_is_on_stderr(job: Shell) -> None:
    code, out, err = job.run(f"presign {MINE} {OTHER} --expires 2h")
    listed = UrlList.from_json(out.encode(), "stdout")
    assert code == 0
    assert out.count("\n") == 1
    assert [model.ref for model in listed.models] == [MINE, OTHER]
    assert listed.store == job.environ["CI_MODELCACHE_STORE"]
    assert abs(listed.ends - time.time() - 7200) < 60
    assert f"signed URLs of {len(listed.objects)} objects" in err
    assert f"for 2 models, until {listed.expires}" in err
    assert "secret" in err
    assert not secrets_of(err)


def test_only_what_a_restore_reads_is_listed(job: Shell) -> None:
    """No leaf lists, answers or leases, and nothing of other models."""
    listed = UrlList.from_json(job.done(f"presign {MINE}").encode(), "stdout")
    kinds = sorted(key.partition("/")[0] for key in listed.objects)
    assert kinds == [*["blobs"] * len(FILES), "manifests", "modelcache.json", "refs"]
    sizes = {len(data) for data in FILES.values()}
    assert {found.size for key, found in listed.objects.items() if key.startswith("blobs/")} == sizes


def test_a_file_is_for_its_owner_alone_and_its_path_is_printed(job: Shell) -> None:
    (job.cwd / "urls.json").write_text("readable by all")
    assert job.done(f"presign {MINE} -o urls.json") == f"{job.cwd}/urls.json\n"
    assert stat.S_IMODE((job.cwd / "urls.json").stat().st_mode) == 0o600
    assert job.listed().models[0].ref == MINE
    report = job.report(f"presign {MINE} -o urls.json")
    assert report["document"] == (job.cwd / "urls.json").stat().st_size
    assert report["expires"] == job.listed().expires


def test_variables_name_models_time_and_file(job: Shell) -> None:
    told = job.with_(CI_MODELCACHE_MODELS=MINE, CI_MODELCACHE_EXPIRES="30m", CI_MODELCACHE_OUTPUT="named.json")
    told.done("presign")
    assert abs(job.listed("named.json").ends - time.time() - 1800) < 60


def test_a_credential_that_only_reads_suffices(job: Shell, build: Shell) -> None:
    reader = job.with_(AWS_ACCESS_KEY_ID=READER[0], AWS_SECRET_ACCESS_KEY=READER[1])
    secret = given(reader, build)
    assert files_in(Path(build.done(f"restore --from-urls {secret} --to out").strip())) == FILES


def test_a_rate_limit_does_not_hide_that_urls_can_be_signed(job: Shell) -> None:
    assert job.done(f"presign {MINE} --limit-rate 50MB")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (f"{MINE} org/none@v1", 10, "ci-modelcache fetch org/none@v1"),
        (f"{MINE} --include nothing", 10, "no file that --include and --exclude select"),
        (f"{MINE} --expires 8d", 2, "7 days at most"),
        (f"{MINE} --expires 0", 2, "would have ended already"),
        (f"{MINE} --expires soon", 2, "--expires: not a duration"),
        (f"{MINE} --json", 2, "name a file: -o FILE"),
        (f"{MINE} -o ''", 2, "names no file"),
        (f"{MINE} -o s3://bucket/urls.json", 2, "no file to write to"),
        (f"{MINE} --mode off", 2, "the mode is off"),
        ("", 2, "no model is named"),
    ],
)
def test_a_failure_prints_nothing_that_could_be_taken_for_a_list(line: str, code: int, said: str, job: Shell) -> None:
    found, out, err = job.run(f"presign {line}")
    assert (found, said in err) == (code, True), err
    assert not secrets_of(out)
    assert sorted(path.name for path in job.cwd.iterdir()) == []


def test_a_folder_has_no_urls_and_the_hint_says_what_else_there_is(job: Shell) -> None:
    own = job.with_(CI_MODELCACHE_STORE=str(job.cwd / "store"))
    own.done(f"save {write_files(job.cwd / 'other', {'config.json': b'{}'})} {OTHER}")
    code, out, err = own.run(f"presign {OTHER}")
    assert (code, out) == (2, "")
    assert "--store s3://BUCKET/PREFIX" in err


def test_without_credentials_nothing_can_be_signed(job: Shell, relay: Relay) -> None:
    code, _, err = job.without("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY").run(f"presign {MINE}")
    assert (code, "no credentials were found" in err) == (2, True), err
    assert relay.seen == []


def test_urls_that_do_not_work_are_not_given_away(job: Shell, relay: Relay) -> None:
    """As where a policy forbids them, or the bucket is in another region than is said."""
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    relay.faults.append(Fault("answer", "GET", having="X-Amz-Signature=", status=403, body=denied))
    code, out, err = job.run(f"presign {MINE}")
    assert (code, out) == (12, "")
    assert "tried before they are given to anybody" in err


def test_a_terminal_is_not_shown_a_secret(job: Shell) -> None:
    ours, theirs = pty.openpty()
    try:
        code, _, err = job.apart(f"presign {MINE}", stdout=theirs)
    finally:
        os.close(theirs)
        os.close(ours)
    assert (code, "is a terminal" in err) == (2, True)


@pytest.mark.parametrize(
    ("seconds", "said"), [(1800, "sooner than the 2h asked for"), (None, "do not tell when they end")]
)
def test_credentials_that_may_end_first_are_warned_of_and_their_token_is_not_shown(
    seconds: float | None, said: str, job: Shell, moto_server: S3Server
) -> None:
    """moto accepts every credential, as no store of ours has an STS that gives them."""
    end = {} if seconds is None else {"AWS_CREDENTIAL_EXPIRATION": moment(time.time() + seconds)}
    temporary = job.with_(CI_MODELCACHE_ENDPOINT_URL=moto_server.endpoint, AWS_SESSION_TOKEN=TOKEN, **end)
    temporary.done(f"save {write_files(job.cwd / 'other', {'config.json': b'{}'})} {OTHER}")
    code, out, err = temporary.run(f"presign {OTHER} --expires 2h -vv")
    listed = UrlList.from_json(out.encode(), "stdout")
    assert code == 0, err
    assert said in err
    assert abs(listed.ends - time.time() - (seconds or 7200)) < 100
    assert TOKEN in out
    assert TOKEN not in err


def test_a_list_that_is_too_large_for_a_secret_of_docker_is_warned_of(
    job: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a smaller limit: half a megabyte would be a thousand objects."""
    monkeypatch.setattr(verb, "_LARGEST_SECRET", 1000)
    code, _, err = job.run(f"presign {OTHER}")
    assert (code, "BuildKit takes secrets of at most" in err) == (0, True), err


GUIDE = (ROOT / "docs" / "presign.md").read_text()


@pytest.mark.parametrize("row", rows(GUIDE.partition("## What may go wrong")[2]), ids=lambda row: row[1])
def test_a_message_of_the_guide_is_one_of_the_code_s_with_its_exit_code(row: list[str]) -> None:
    matching = [message for message in messages() if message.could_be(row[1].strip("`"))]
    assert int(row[0]) in {code for message in matching for code in message.exit_codes}


def test_the_list_of_the_guide_has_the_fields_of_a_real_one() -> None:
    (shown,) = blocks(GUIDE, "json")
    plain, real = json.loads(shown), json.loads(GOLDEN.to_json())
    assert plain.keys() == real.keys()
    assert plain["models"][0].keys() == real["models"][0].keys()
    assert [found.keys() for found in plain["objects"].values()] == [{"size": 0, "url": ""}.keys()]


# --- which objects: generations, what is condemned, what is missing


def found(store: Store, cache: ModelCache | None = None) -> dict[str, int]:
    return objects_of([MANIFEST], cache=cache or cache_in(store), workers=4, deadline=Deadline(60))


@pytest.fixture
def memory() -> MemoryStore:
    store = MemoryStore()
    publish(cache_in(store))
    return store


def key_of(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex[2:4]}/{digest.hex}"


GENERATION = "0" * 26


def test_of_a_blob_whose_name_is_condemned_the_later_copy_is_listed(memory: MemoryStore) -> None:
    """The other one is about to be deleted, perhaps before the URL is used."""
    (digest, data), *_ = BLOBS.items()
    canonical, later = key_of(digest), f"{key_of(digest)}.g{GENERATION}"
    assert canonical in found(memory)
    memory.objects["gc/1/condemned.json"] = to_json(CondemnedRecord((canonical,)))
    assert canonical in found(memory)
    memory.objects[later] = data
    assert later in found(memory)
    assert canonical not in found(memory)


def test_a_blob_that_is_only_there_as_a_later_copy_is_found(memory: MemoryStore) -> None:
    (digest, data), *_ = BLOBS.items()
    del memory.objects[key_of(digest)]
    with pytest.raises(ObjectNotFound) as caught:
        found(memory)
    assert caught.value.key == digest.hex
    memory.objects[f"{key_of(digest)}.g{GENERATION}"] = data
    assert found(memory)[f"{key_of(digest)}.g{GENERATION}"] == len(data)


def test_a_blob_of_another_size_is_not_listed(memory: MemoryStore) -> None:
    digest = next(digest for digest, data in BLOBS.items() if data)
    memory.objects[key_of(digest)] += b"more"
    with pytest.raises(SizeMismatch):
        found(memory)


def test_every_copy_of_a_manifest_is_listed_as_nobody_has_read_them(memory: MemoryStore) -> None:
    (manifest,) = (key for key in memory.objects if key.startswith("manifests/"))
    memory.objects[f"{manifest}.g{GENERATION}"] = memory.objects[manifest]
    assert {manifest, f"{manifest}.g{GENERATION}"} <= set(found(memory))


def test_a_ref_that_the_store_lost_is_no_miss_for_a_lock_has_what_it_says(memory: MemoryStore) -> None:
    (ref,) = (key for key in memory.objects if key.startswith("refs/"))
    assert ref in found(memory)
    del memory.objects[ref]
    assert {key.partition("/")[0] for key in found(memory)} <= {"blobs", "modelcache.json"}
    assert SNAPSHOT.commit in ref
