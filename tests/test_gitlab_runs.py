"""What users of GitLab copy from examples/gitlab works: run by gitlab-ci-local against SeaweedFS and a loopback Hub."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3.session
import pytest
import yaml

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.demo.model import REPO
from tests.parts import minilm, policies
from tests.parts.documents import ROOT
from tests.parts.gitlab_runner import COMPONENT, REQUIREMENT, TEMPLATE, USUAL, Pipeline, Project, Ran, example, parts
from tests.parts.policies import PROTECTED, RoleStore
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, S3Server, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The first of them installs the package, and all wait for other processes.
pytestmark = pytest.mark.timeout(600)

TINY = "acme/tiny"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 4096}
LOADING = f"""
import os
from pathlib import Path
from huggingface_hub import snapshot_download
from minilm import embed

assert os.environ["HF_HUB_OFFLINE"] == "1"
snapshot = Path(snapshot_download({REPO!r}))
assert snapshot.is_relative_to(os.environ["HF_HUB_CACHE"]), snapshot
eating, bread = embed(snapshot, "A man is eating food."), embed(snapshot, "A man is eating a piece of bread.")
print(f"similarity: {{eating @ bread:.4f}}")
"""
"""What the jobs of the examples run; sbert.net gives 0.7553 for these two sentences."""
OFFLINE = "import os; assert os.environ['HF_HUB_OFFLINE'] == '1'"
MERGE_REQUEST = {"CI_PIPELINE_SOURCE": "merge_request_event", "CI_MERGE_REQUEST_IID": "1"}


def install(shell: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Let *shell* install in a job in *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "XDG_"))}
    command = [shell, "-e", "-c", parts()[0]]
    environ = {**kept, "CI_PROJECT_DIR": str(folder), **variables}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the template has installed this package, by uv and the smallest shell there is."""
    folder = tmp_path_factory.mktemp("venv")
    build = [program("uv"), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=500)
    (wheel,) = folder.glob("*.whl")
    path = f"{Path(program('uv')).parent}{os.pathsep}{os.environ['PATH']}"
    done = install(
        "dash", folder / "job", PATH=path, MODELCACHE_INSTALL=str(wheel), MODELCACHE_VENV=str(folder / "venv")
    )
    assert done.returncode == 0, done.stderr
    (folder / "venv" / ".ci-modelcache").write_text(REQUIREMENT)
    return folder / "venv"


@pytest.fixture(scope="module")
def hub(model: Path) -> Iterator[LoopbackHub]:
    """A Hub with the real model and a tiny one."""
    with LoopbackHub() as running:
        running.add_repo(REPO, {"main": model})
        running.add_repo(TINY, {"main": FILES})
        yield running


@pytest.fixture(scope="module")
def variables(hub: LoopbackHub, seaweedfs_server: S3Server, venv: Path) -> dict[str, str]:
    """What the settings of every project here say: as whoever may write the store."""
    return {
        "CI_MODELCACHE_ENDPOINT": hub.url,
        "CI_MODELCACHE_ENDPOINT_URL": seaweedfs_server.endpoint,
        "CI_MODELCACHE_REGION": REGION,
        "MODELCACHE_VENV": str(venv),
        **credentials(ADMIN),
    }


def credentials(who: tuple[str, str]) -> dict[str, str]:
    return dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), who, strict=True)) | {
        "AWS_EC2_METADATA_DISABLED": "true"
    }


@pytest.fixture
def project(tmp_path: Path, variables: dict[str, str]) -> Callable[..., Project]:
    """Makes projects of an example or a text: ``project("restore", store="a")``; their test.py loads the real model."""
    numbers = itertools.count()

    def make(pipeline: str, *, store: str, **files: str) -> Project:
        made = Project(
            tmp_path / f"project-{next(numbers)}",
            {**USUAL, **variables, "CI_MODELCACHE_STORE": f"s3://{BUCKET}/gitlab/{store}"},
        )
        content = {"test.py": LOADING, "minilm.py": Path(minilm.__file__).read_text(), **files}
        made.commit(pipeline if "\n" in pipeline else example(pipeline), content)
        return made

    return make


def command_line(variables: dict[str, str], folder: Path, *arguments: str) -> None:
    """Run ci-modelcache in *folder*, outside of any job."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    del environ["MODELCACHE_VENV"]
    command = [sys.executable, "-m", "ci_modelcache", *arguments]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def owner(server: S3Server) -> Iterator[Any]:
    """A client of boto3 for the owner of the bucket."""
    access_key, secret = ADMIN
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
    )
    yield client
    client.close()


def keys(server: S3Server, prefix: str) -> list[str]:
    """The keys below *prefix*, the largest object first."""
    with owner(server) as client:
        found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [each["Key"] for each in sorted(found, key=lambda each: -each["Size"])]


def spoil(server: S3Server, prefix: str) -> None:
    """Change a byte of the largest object below *prefix*."""
    key, *_ = keys(server, prefix)
    with owner(server) as client:
        content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        client.put_object(Bucket=BUCKET, Key=key, Body=content[:-1] + bytes([content[-1] ^ 1]))


# --- the examples, with the real model


def test_the_first_pipeline_fills_the_store_and_the_next_asks_no_hub_and_loads_offline(
    project: Callable[..., Project], hub: LoopbackHub
) -> None:
    """With the lines that the guide begins with; then with those that tell a later job what happened."""
    hub.forget()
    cold = project("restore", store="first").run().passed("test")
    assert "similarity: 0.7553" in cold.log
    assert (cold.outputs["MODELCACHE_CACHE_HIT"], cold.outputs["MODELCACHE_RESULT"]) == ("false", "fetched")
    assert hub.requests() != []

    hub.forget()
    pipeline = project("outputs", store="first").run()
    warm = pipeline.passed("test")
    assert hub.requests() == []
    assert "similarity: 0.7553" in warm.log
    outputs = warm.outputs
    assert (outputs["MODELCACHE_CACHE_HIT"], outputs["MODELCACHE_RESULT"]) == ("true", "hit")
    assert f"\nhit of commit {outputs['MODELCACHE_REVISION']}, {outputs['MODELCACHE_BYTES_DOWNLOADED']} bytes in" in (
        pipeline.passed("report").log
    )
    _check_reports(warm)


def _check_reports(job: Ran) -> None:
    """What a job leaves behind is as docs/gitlab.md says."""
    assert sorted(job.outputs) == sorted(
        f"MODELCACHE_{name}"
        for name in ("CACHE_HIT", "RESULT", "PATH", "PATHS", "REVISION", "DIGEST", "BYTES_DOWNLOADED", "SECONDS")
    ), "and nothing of HF_, as later jobs run elsewhere"
    assert json.loads(job.outputs["MODELCACHE_PATHS"]) == {f"{REPO}@main": job.outputs["MODELCACHE_PATH"]}
    ((section, (link,)),) = json.loads(job.report("annotations.json")).items()
    assert (section, link["external_link"]["label"]) == ("models", f"{REPO}@main: hit")
    assert link["external_link"]["url"].endswith(f"/{REPO}/tree/{job.outputs['MODELCACHE_REVISION']}")
    assert "section_start:" in job.log
    assert "section_end:" in job.log
    assert (job.folder / ".modelcache" / ".gitignore").read_text() == "*\n"


def test_buildah_puts_a_restored_model_into_an_image_whose_layer_is_the_same_in_every_build(
    project: Callable[..., Project], tmp_path: Path
) -> None:
    """With an empty base, as no registry can be reached; what logs in and pushes is left out."""
    if shutil.which("buildah") is None:
        pytest.fail("buildah is missing; run: apt-get install buildah")
    pipeline = "".join(
        line for line in example("buildah").splitlines(keepends=True) if "login" not in line and "push" not in line
    )
    made = project(pipeline, store="buildah", Dockerfile="FROM scratch\nCOPY model /model\n")
    storage = tmp_path / "storage.conf"
    root, run = tmp_path / "images", tmp_path / "containers"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{root}"\nrunroot = "{run}"\n')
    digests = []
    for _ in range(2):
        built = made.run(
            CI_MODELCACHE_MODELS=f"{TINY}@main", CI_REGISTRY_IMAGE="localhost/app", CONTAINERS_STORAGE_CONF=str(storage)
        ).passed("build-image")
        assert built.outputs["MODELCACHE_PATH"] == str(built.folder / "context" / "model")
        command = ["buildah", "inspect", "--type", "image", "--format", "{{.OCIv1.RootFS.DiffIDs}}"]
        named = f"localhost/app:{built.commit[:8]}"
        shown = subprocess.run(
            [*command, named],
            env={**os.environ, "CONTAINERS_STORAGE_CONF": str(storage)},
            check=True,
            capture_output=True,
            text=True,
        )
        digests.append(shown.stdout)
    assert digests[0] == digests[1]


# --- the examples, with a tiny model


def test_twenty_jobs_after_one_that_warms_cause_one_fetch(project: Callable[..., Project], hub: LoopbackHub) -> None:
    hub.forget()
    pipeline = project("warm", store="matrix", **{"test.py": OFFLINE}).run(CI_MODELCACHE_MODELS=f"{TINY}@main")
    assert pipeline.passed("warm-models").outputs["MODELCACHE_RESULT"] in {"fetched", "saved"}
    shards = [job for name, job in pipeline.jobs.items() if name.startswith("test")]
    assert [job.code for job in shards] == [0] * 20, pipeline.printed
    assert {job.outputs["MODELCACHE_RESULT"] for job in shards} == {"hit"}
    assert hub.sent == sum(map(len, FILES.values()))


def test_a_pipeline_of_a_merge_request_has_no_job_that_warms(project: Callable[..., Project]) -> None:
    made = project("warm", store="none")
    listed = made.run("--list", CI_COMMIT_REF_PROTECTED="false").printed
    assert re.findall(r"(?m)^warm-models\b", listed) == []
    assert len(re.findall(r"(?m)^test: \[\d+\]", listed)) == 20


def test_the_component_does_what_the_template_does(project: Callable[..., Project], hub: LoopbackHub) -> None:
    hub.forget()
    made = project("component", store="component", **{"test.py": OFFLINE})
    pipeline = made.run(CI_MODELCACHE_MODELS=f"{TINY}@main")
    pipeline.passed("warm-models")
    assert pipeline.passed("test").outputs["MODELCACHE_RESULT"] == "hit"
    assert hub.sent == sum(map(len, FILES.values()))


def test_a_lock_is_obeyed_without_the_hub_and_a_stale_one_is_refused(
    project: Callable[..., Project], variables: dict[str, str], tmp_path: Path
) -> None:
    toml = f'[[models]]\nrepo = "{TINY}"\n'
    (tmp_path / "modelcache.toml").write_text(toml)
    command_line(variables, tmp_path, "lock")
    command_line(variables, tmp_path, "fetch", TINY, "--store", f"s3://{BUCKET}/gitlab/locked")
    lock = (tmp_path / "modelcache.lock").read_text()

    files = {"test.py": OFFLINE, "modelcache.lock": lock}
    made = project("locked", store="locked", **files, **{"modelcache.toml": toml})
    good = made.run(CI_MODELCACHE_DEADLINE="60s", CI_MODELCACHE_MIRRORS="").passed("test")
    assert good.outputs["MODELCACHE_RESULT"] == "hit"

    stale = project("locked", store="locked", **files, **{"modelcache.toml": f'{toml}revision = "v2"\n'}).run()["test"]
    assert stale.code == 2
    assert stale.outputs["MODELCACHE_RESULT"] == "error"
    assert "modelcache.lock" in stale.log


def test_each_job_takes_on_the_role_that_its_branch_may_have(
    project: Callable[..., Project], role_store: RoleStore
) -> None:
    """Of a store that goes by examples/policies; the token is as GitLab gives it, signed."""
    made = project("roles", store="roles", **{"test.py": OFFLINE})
    nobody = dict.fromkeys(credentials(ADMIN), "") | {"AWS_EC2_METADATA_DISABLED": "true"}
    settings = {
        **nobody,
        "CI_MODELCACHE_ENDPOINT_URL": role_store.endpoint,
        "AWS_ENDPOINT_URL_STS": role_store.endpoint,
        "CI_MODELCACHE_MODELS": f"{TINY}@main",
    }
    main = made.run(**settings, MODELCACHE_ID_TOKEN=role_store.gitlab.token(sub=PROTECTED))
    assert main.passed("test").outputs["MODELCACHE_RESULT"] == "fetched"

    feature = {**settings, "CI_COMMIT_BRANCH": "", "CI_COMMIT_REF_PROTECTED": "false", **MERGE_REQUEST}
    token = role_store.gitlab.token(sub=policies.MERGE_REQUEST)
    assert made.run(**feature, MODELCACHE_ID_TOKEN=token).passed("test").outputs["MODELCACHE_RESULT"] == "hit"

    refused = made.run(**settings, MODELCACHE_ID_TOKEN=token)["test"]
    assert refused.code == 12
    assert "gitlab-writer" in refused.log
    assert token not in refused.log


def test_an_export_is_read_without_this_tool(
    project: Callable[..., Project], variables: dict[str, str], tmp_path: Path
) -> None:
    command_line(variables, tmp_path, "fetch", TINY, "--store", f"s3://{BUCKET}/gitlab/export")
    made = project("export", store="export")
    exported = made.run(CI_MODELCACHE_MODELS=f"{TINY}@main").passed("backup-models")
    artifact = made.artifact("backup-models", "modelcache.tar")
    for command in (["tar", "xf", str(artifact)], ["sha256sum", "--check", "SHA256SUMS"]):
        subprocess.run(command, cwd=exported.folder, check=True, capture_output=True)


def test_a_nightly_backup_is_what_the_monthly_one_lacks_and_both_together_are_the_store(
    project: Callable[..., Project], variables: dict[str, str], seaweedfs_server: S3Server, tmp_path: Path
) -> None:
    command_line(variables, tmp_path, "fetch", TINY, "--store", f"s3://{BUCKET}/gitlab/backup")
    made = project(example("backup").replace('" = 01 ]', '" = 00 ]'), store="backup")
    given = {"CI_MODELCACHE_MODELS": f"{TINY}@main", "BACKUPS": f"s3://{BUCKET}/gitlab-backups"}
    for source in ("web", "schedule"):
        made.run(**given, CI_PIPELINE_SOURCE=source).passed("backup-models")
    with owner(seaweedfs_server) as client:
        found = client.list_objects_v2(Bucket=BUCKET, Prefix="gitlab-backups/")["Contents"]
    full, new = sorted(found, key=lambda each: -each["Size"])
    assert new["Size"] < 30_000 < full["Size"]
    for each in (full, new):
        command_line(variables, tmp_path, "import", f"s3://{BUCKET}/{each['Key']}", "--store", "other")
    command_line(variables, tmp_path, "restore", TINY, "--store", "other", "--offline", "--to", "model")


# --- what goes wrong

SITUATIONS = """
include:
  - local: template.yml
  - local: component.yml
    inputs:
      job-prefix: hostile
      store: 's3://x";touch pwned;"$(touch pwned)'
      models: "`touch pwned` ;touch${IFS}pwned; $(touch pwned) acme/tiny@main'||touch pwned||'"

.here:
  extends: .modelcache:restore
  variables: {CI_COMMIT_REF_PROTECTED: "true", CI_MODELCACHE_MODELS: acme/tiny@main}
  script: ["true"]

.merge-request:
  extends: .here
  variables: {CI_COMMIT_REF_PROTECTED: "false", CI_PIPELINE_SOURCE: merge_request_event, CI_MERGE_REQUEST_IID: "1"}

denied:
  extends: .here
  variables: {AWS_SECRET_ACCESS_KEY: another-secret}

reading:
  extends: .merge-request
  variables: {AWS_ACCESS_KEY_ID: READER_KEY, AWS_SECRET_ACCESS_KEY: READER_SECRET}

nobody:
  extends: .merge-request
  variables: {AWS_ACCESS_KEY_ID: "", AWS_SECRET_ACCESS_KEY: ""}

all-dead:
  extends: .here
  variables: {CI_MODELCACHE_ENDPOINT: "http://127.0.0.1:9", CI_MODELCACHE_MIRRORS: "http://127.0.0.1:9/mirror"}

miss:
  extends: .here
  variables: {CI_MODELCACHE_FAIL_ON_MISS: "true"}

repaired:
  extends: .here
  variables: {CI_MODELCACHE_STORE: SPOILED/mended}

corrupt:
  extends: .here
  variables: {CI_MODELCACHE_STORE: SPOILED/left, CI_MODELCACHE_OFFLINE: "true", CI_MODELCACHE_MODE: read}

looking:
  extends: .here
  variables: {CI_MODELCACHE_LOOKUP_ONLY: "true"}
  script: ["test -z \\"$HF_HUB_OFFLINE\\""]

hostile-names:
  extends: .here
  variables: {CI_MODELCACHE_MODELS: "`touch pwned` ;touch pwned; $(touch pwned) acme/tiny@main'||touch pwned||'"}

hostile-revision:
  extends: .here
  variables: {CI_MODELCACHE_MODELS: "acme/tiny@\\e[0Ksection_end:1:modelcache_1\\r\\e[0K$(touch${IFS}pwned)"}

hostile-inputs:
  extends: .hostile:restore
  script: ["true"]
"""


@pytest.fixture(scope="module")
def situations(
    variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory, seaweedfs_server: S3Server
) -> Pipeline:
    """A pipeline with one job for everything that can be wrong."""
    folder, spoiled = tmp_path_factory.mktemp("situations"), "gitlab/spoiled"
    for name in ("mended", "left"):
        command_line(variables, folder, "fetch", TINY, "--store", f"s3://{BUCKET}/{spoiled}/{name}")
        spoil(seaweedfs_server, f"{spoiled}/{name}/blobs/")
    text = SITUATIONS
    for name, value in {
        "READER_KEY": READER[0],
        "READER_SECRET": READER[1],
        "SPOILED": f"s3://{BUCKET}/{spoiled}",
    }.items():
        text = text.replace(name, value)
    made = Project(
        folder / "project", {name: value for name, value in USUAL.items() if name != "CI_COMMIT_REF_PROTECTED"}
    )
    settings = {**variables, "CI_MODELCACHE_STORE": f"s3://{BUCKET}/gitlab/situations"}
    # As variables of the pipeline: those of its jobs come before them.
    said = yaml.safe_dump({"variables": settings})
    templates = {"template.yml": TEMPLATE.read_text(), "component.yml": COMPONENT.read_text()}
    made.commit(said + text, templates)
    return made.run(MODELCACHE_VENV=variables["MODELCACHE_VENV"])


EXPECTED = {
    "denied": (12, "denied", "403 SignatureDoesNotMatch"),
    "reading": (0, "fetched", "fetched from http://127.0.0.1"),
    "nobody": (
        0,
        "fetched",
        "may not be read without credentials, and this job has none: it goes on without the store",
    ),
    "all-dead": (11, "unavailable", "gave up asking http://127.0.0.1:9 for acme/tiny@main"),
    "miss": (10, "miss", "--fail-on-miss is set"),
    "repaired": (0, "partial", "the store's copy was missing or wrong, and taken from upstream: model.safetensors"),
    "corrupt": (13, "corrupt", "expected digest"),
    "looking": (0, "miss", "miss acme/tiny@"),
    "hostile-names": (2, "error", "not a repository name"),
    "hostile-revision": (2, "error", r"acme/tiny@\x1b[0Ksection_end"),
    "hostile-inputs": (2, "error", "not a repository name"),
}
"""Exit code, result, and some of what is said, by job."""


@pytest.mark.parametrize("name", EXPECTED)
def test_a_job_ends_with_the_exit_code_of_what_is_wrong_and_says_it(situations: Pipeline, name: str) -> None:
    job = situations[name]
    code, result, said = EXPECTED[name]
    assert (job.code, job.outputs["MODELCACHE_RESULT"]) == (code, result), job.log
    assert said in job.log
    assert job.outputs["MODELCACHE_CACHE_HIT"] == "false"


def test_hostile_names_and_inputs_run_nothing_and_forge_no_line_of_the_log(situations: Pipeline) -> None:
    hostile = [job for name, job in situations.jobs.items() if name.startswith("hostile")]
    assert len(hostile) == 3
    assert [path for job in hostile for path in job.folder.rglob("pwned*")] == []
    assert [job.log for job in hostile if "\x1b[0Ksection_end:1:" in job.log] == []


def test_who_may_only_read_has_written_nothing(situations: Pipeline, seaweedfs_server: S3Server) -> None:
    """Four jobs had fetched what the store lacks, or looked for it, and none of them might save it."""
    assert situations["reading"].code == situations["nobody"].code == 0
    assert keys(seaweedfs_server, "gitlab/situations/") == []
