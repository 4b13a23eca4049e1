"""The example workflows, run by act against SeaweedFS with a real model: what a user copies does what the guide says."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from attrs import field, frozen

from ci_modelcache.demo.exchange import CDN
from ci_modelcache.demo.hub import LoopbackHub, Seen
from ci_modelcache.demo.model import REPO
from ci_modelcache.model.ref import RepoType
from tests.parts import act, minilm
from tests.parts.hub_faults import Status
from tests.parts.policies import PULL_REQUEST, RoleStore, admin, arn
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, S3Server, seaweedfs

# A dozen processes for each, on a machine that others use too.
pytestmark = pytest.mark.timeout(400)

STORE, PUBLIC = "my-bucket", "public-models"
STRANGER = ("AKIDTESTSTRANGER0001", "secret-of-a-stranger")
FORK = {"pull_request": {"number": 7, "head": {"repo": {"fork": True, "full_name": "mallory/app"}, "ref": "patch"}}}
WEIGHTS = "model.safetensors"
RESTORE = "1"
"""The step that restores in the first example, where it has no id: it is the second one."""
USE = "      - run: python3 use_model.py\n"
SMALL = {"config.json": b"{}", "onnx/model.onnx": b"onnx", WEIGHTS: bytes(range(256)) * 4000, "model.bin": b"pickle"}
"""What takes no time, for jobs whose bytes do not matter."""
USE_MODEL = """
import os
from huggingface_hub import snapshot_download
from minilm import embed
from pathlib import Path

assert os.environ["HF_HUB_OFFLINE"] == "1", "the Hub might be asked"
folder = Path(snapshot_download("sentence-transformers/all-MiniLM-L6-v2"))
eating, bread = embed(folder, "A man is eating food."), embed(folder, "A man is eating a piece of bread.")
print(f"similarity {float(eating @ bread):.4f}")
"""
"""What ``sentence-transformers`` does, without a gigabyte of torch."""
PUBLISHED = "similarity 0.7553\n"
"""By sbert.net, for these two sentences and this model."""


@frozen
class World:
    """
    A *hub* with the real model, an object store with the buckets of the examples, and a *runner*.

    Another hub has a *small* model in its place. *folder* is for repositories and homes.
    """

    folder: Path
    hub: LoopbackHub
    small: LoopbackHub
    server: S3Server
    runner: act.Runner
    _number: Iterator[int] = field(factory=itertools.count)

    def run(  # noqa: PLR0913  # what a repository, its settings and an event are made of
        self,
        example: str,
        event: str = "push",
        *,
        who: tuple[str, str] | None = ADMIN,
        edit: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        payload: Mapping[str, object] | None = None,
        hub: LoopbackHub | None = None,
        then: str = "",
    ) -> act.Ran:
        """
        Run the example of that name, or the workflow that is a text, with the credentials of *who*; the hubs count from here.

        *edit* replaces texts in it, and *then* comes after it; *payload* is what GitHub says of the event; *hub* is the small one unless another is named.
        """
        text = example if "\n" in example else (act.EXAMPLES / f"{example}.yml").read_text()
        for old, new in (edit or {}).items():
            assert old in text
            text = text.replace(old, new)
        text += then
        folder = self.folder / str(next(self._number))
        program = {"use_model.py": USE_MODEL, "minilm.py": Path(minilm.__file__).read_text()}
        repository = act.repository(folder / "repository", text, {**program, **(files or {})})
        secrets = {} if who is None else {"AWS_ACCESS_KEY_ID": who[0], "AWS_SECRET_ACCESS_KEY": who[1]}
        for each in (self.hub, self.small):
            each.forget()
        return self.runner.run(
            repository,
            event,
            payload=payload,
            environ={"HF_ENDPOINT": (hub or self.small).url, **(environ or {})},
            secrets=secrets,
            variables=variables,
            home=folder / "home",
        )

    def cli(self, *arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        """Do something with ci-modelcache itself."""
        credentials = {"AWS_ACCESS_KEY_ID": ADMIN[0], "AWS_SECRET_ACCESS_KEY": ADMIN[1]}
        around = {**os.environ, "HF_ENDPOINT": self.small.url, **self.runner.environ, **credentials, **(environ or {})}
        command = [sys.executable, "-m", "ci_modelcache", *arguments]
        subprocess.run(command, cwd=cwd, env=around, check=True, capture_output=True)

    def stored(self, bucket: str = STORE) -> list[str]:
        """What a bucket holds."""
        pages = admin(self.server).get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def size(self, key: str, bucket: str) -> int:
        """Bytes of an object."""
        return int(admin(self.server).head_object(Bucket=bucket, Key=key)["ContentLength"])

    def empty(self) -> None:
        """Empty the bucket."""
        client = admin(self.server)
        for key in self.stored():
            client.delete_object(Bucket=STORE, Key=key)

    def fill(self, *options: str, bucket: str = STORE, hub: LoopbackHub | None = None) -> None:
        """Let the bucket hold the model of *hub*, or what *options* leave of it."""
        environ = {"HF_ENDPOINT": (hub or self.small).url}
        self.cli("fetch", REPO, *options, "--store", f"s3://{bucket}/models", environ=environ)

    @property
    def requests(self) -> list[Seen]:
        """All that the hubs were asked."""
        return [*self.hub.requests(), *self.small.requests()]


@pytest.fixture(scope="module")
def world(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("act")
    anybody = [{"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]}]
    with LoopbackHub() as hub, LoopbackHub() as small, seaweedfs(folder / "store", identities=anybody) as server:
        hub.add_repo(REPO, {"main": model})
        for each in (hub, small):
            each.add_repo("org/small", {"main": SMALL})
        small.add_repo(REPO, {"main": SMALL | {"tokenizer.json": (model / "tokenizer.json").read_bytes()}})
        small.add_repo("org/questions", {"main": {"test.jsonl": b"{}\n"}}, type=RepoType.DATASET)
        for bucket in (STORE, PUBLIC, "my-backups"):
            admin(server).create_bucket(Bucket=bucket)
        machine = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": REGION}
        runner = act.Runner(folder / "runner", act.publish(folder / "action"), machine)
        runner.install()
        yield World(folder, hub, small, server, runner)


def _row(ran: act.Ran) -> list[str]:
    """The cells of the one model in the one summary."""
    (summary,) = ran.summaries
    head, _, row = [line for line in summary.splitlines() if line.startswith("|")]
    names = [
        "model",
        "revision",
        "result",
        "source",
        "files",
        "size",
        "seconds",
        "MB/s",
        "hit ratio",
        "verified against",
    ]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == names
    return [cell.strip() for cell in row.split("|")[1:-1]]


# --- the first example: who runs it decides


@pytest.fixture(scope="module")
def cold(world: World) -> act.Ran:
    """The first push."""
    ran = world.run("restore", hub=world.hub, then=USE)
    assert world.requests
    return ran


def test_the_first_push_fetches_the_model_fills_the_bucket_and_the_next_step_loads_it_offline(
    world: World, cold: act.Ran
) -> None:
    assert cold.status == 0, cold.text
    outputs = cold.outputs(RESTORE)
    assert (outputs["cache-hit"], outputs["result"], len(outputs["digest"])) == ("false", "fetched", 64)
    assert json.loads(outputs["paths"]) == {f"{REPO}@main": outputs["path"]}
    assert outputs["path"].endswith(f"/snapshots/{outputs['revision']}")
    assert int(outputs["bytes-downloaded"]) > 91_000_000
    assert float(outputs["seconds"]) > 0
    assert cold.printed.endswith(PUBLISHED)
    assert any(key.startswith("models/refs/") for key in world.stored())
    assert cold.groups == [f"restore {REPO}@main"]
    assert cold.annotations == []
    assert _row(cold)[2:3] == ["fetched"]
    assert _row(cold)[-2:] == ["0 %", "the Hub"]


def test_the_next_push_hits_with_no_request_to_the_hub(world: World, cold: act.Ran) -> None:
    ran = world.run("restore", hub=world.hub, then=USE)

    assert ran.status == 0, ran.text
    assert world.requests == []
    outputs, before = ran.outputs(RESTORE), cold.outputs(RESTORE)
    assert (outputs["cache-hit"], outputs["result"]) == ("true", "hit")
    assert (outputs["revision"], outputs["digest"]) == (before["revision"], before["digest"])
    assert ran.variables["HF_HUB_OFFLINE"] == "1"
    assert ran.variables["HF_HUB_CACHE"] == f"{ran.variables['HF_HOME']}/hub"
    assert outputs["path"].startswith(ran.variables["HF_HUB_CACHE"])
    assert ran.printed.endswith(PUBLISHED)
    assert ran.annotations == []
    row = _row(ran)
    assert row[1:6] == [outputs["revision"][:12], "hit", f"s3://{STORE}/models", "13", "91.6 MB"]
    assert row[-2:] == ["100 %", "the store's manifest"]


def test_a_pull_request_reads_with_credentials_that_may_only_read(world: World) -> None:
    world.fill()

    ran = world.run("restore", "pull_request", who=READER)

    assert ran.status == 0, ran.text
    assert ran.outputs(RESTORE)["result"] == "hit"
    assert ran.annotations == []
    assert world.requests == []


def test_a_push_whose_credentials_may_not_write_has_its_model_and_a_warning(world: World) -> None:
    world.empty()

    ran = world.run("restore", who=READER)

    assert ran.status == 0, ran.text
    assert ran.outputs(RESTORE)["result"] == "fetched"
    (warning,) = ran.annotations
    assert warning.level == "warning"
    assert "was restored but not saved" in warning.message
    assert world.stored() == []


def test_a_fork_without_secrets_goes_to_the_hub_with_one_warning(world: World) -> None:
    world.fill()
    before = world.stored()

    ran = world.run("restore", "pull_request", who=None, payload=FORK)

    assert ran.status == 0, ran.text
    assert ran.outputs(RESTORE)["result"] == "fetched"
    (warning,) = [note for note in ran.annotations if note.level != "notice"]
    assert warning.level == "warning"
    assert "without credentials" in warning.message
    assert world.stored() == before


def test_a_fork_reads_a_public_bucket_without_credentials(world: World) -> None:
    world.fill(bucket=PUBLIC)

    ran = world.run("restore", "pull_request", who=None, payload=FORK, edit={STORE: PUBLIC})

    assert ran.status == 0, ran.text
    assert ran.outputs(RESTORE)["cache-hit"] == "true"
    assert ran.annotations == []
    assert world.requests == []


@pytest.mark.parametrize("event", ["push", "pull_request"])
def test_credentials_that_are_refused_are_denied_not_a_miss(event: str, world: World) -> None:
    ran = world.run("restore", event, who=STRANGER)

    assert (ran.status, ran.exit_codes) == (1, [12]), ran.text
    outputs = ran.outputs(RESTORE)
    assert (outputs["cache-hit"], outputs["result"], outputs["path"]) == ("false", "denied", "")
    (error,) = ran.annotations
    assert error.level == "error"
    assert "403" in error.message
    assert "check AWS_ACCESS_KEY_ID" in error.message
    assert "### Models: denied" in ran.summaries[0]
    assert "HF_HUB_OFFLINE" not in ran.variables
    assert world.requests == []


# --- what goes wrong in the bucket, and with the Hub


TAG = {"ref": "refs/tags/v1.0"}
BUILD = {"build.sh": 'echo "built with $1 of $(ls model)"\n'}


def test_a_release_fails_on_a_miss_and_asks_no_hub(world: World) -> None:
    world.empty()

    ran = world.run("release", payload=TAG, files=BUILD)

    assert (ran.status, ran.exit_codes) == (1, [10]), ran.text
    assert ran.outputs("models")["result"] == "miss"
    assert world.requests == []


def _spoil(world: World) -> tuple[str, bytes]:
    """Flip one bit of the weights in the bucket; returns their key and what they were."""
    client = admin(world.server)
    blobs = client.list_objects_v2(Bucket=STORE, Prefix="models/blobs/")["Contents"]
    key = max(blobs, key=lambda blob: int(blob["Size"]))["Key"]
    right: bytes = client.get_object(Bucket=STORE, Key=key)["Body"].read()
    wrong = bytearray(right)
    wrong[500_000] ^= 1
    client.put_object(Bucket=STORE, Key=key, Body=bytes(wrong))
    return key, right


def test_a_blob_that_is_corrupt_fails_a_release_and_is_mended_by_the_next_push(world: World) -> None:
    world.empty()
    # The example leaves these files out; who fills the bucket for it does the same.
    world.fill("--exclude", "onnx/*", "--exclude", "openvino/*")
    world.fill()
    whole = world.run("release", payload=TAG, files=BUILD)
    assert whole.status == 0, whole.text
    assert re.search(rf"built with {whole.outputs('models')['digest']} of .*config\.json", whole.printed, re.DOTALL)
    key, right = _spoil(world)

    refused = world.run("release", payload=TAG, files=BUILD)

    assert (refused.status, refused.exit_codes) == (1, [13]), refused.text
    assert refused.outputs("models")["result"] == "corrupt"
    assert "built" not in refused.printed
    assert world.requests == []

    mended = world.run("restore")

    assert mended.status == 0, mended.text
    assert (mended.outputs(RESTORE)["result"], mended.outputs(RESTORE)["cache-hit"]) == ("partial", "false")
    (warning,) = mended.annotations
    assert f"taken from upstream: {WEIGHTS}" in warning.message
    assert admin(world.server).get_object(Bucket=STORE, Key=key)["Body"].read() == right


def test_when_every_mirror_is_dead_all_that_were_tried_are_told_and_a_job_may_go_on_without(world: World) -> None:
    world.empty()
    dead = ("http://127.0.0.1:1", "http://127.0.0.1:2")
    world.small.faults.append(Status(status=503))

    ran = world.run("results", variables={"MODEL_MIRRORS": "\n".join(dead)})

    world.small.faults.clear()
    assert (ran.status, ran.exit_codes) == (0, [11]), ran.text
    assert ran.results("models") == ["failure"]
    assert ran.outputs("models")["result"] == "unavailable"
    assert ran.outputs("decide") == {"with-model": "false"}
    (error,) = ran.annotations
    assert error.level == "error"
    for source in (*dead, world.small.url):
        assert source in error.message


# --- roles and locks


PROJECT = f"""store = "s3://{BUCKET}/actions"

[[models]]
repo = "org/small"

[[models]]
repo = "{REPO}"
"""
ROLES = {"MODELS_WRITER": arn("github-writer"), "MODELS_READER": arn("github-reader")}


@pytest.fixture(scope="module")
def locked(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The two files of a project, as committed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "modelcache.toml").write_text(PROJECT)
    world.cli("lock", cwd=folder, environ={"CI_MODELCACHE_STORE": str(folder / "store"), "HF_ENDPOINT": world.hub.url})
    return {name: (folder / name).read_text() for name in ("modelcache.toml", "modelcache.lock")}


def _as_job(store: RoleStore, subject: str) -> dict[str, str]:
    """What the machine of a job has that *subject* is the identity of."""
    store.github.subject = subject
    return {**store.github.job(), "AWS_ENDPOINT_URL": store.endpoint}


def test_roles_write_on_a_push_and_read_on_a_pull_request_what_the_lock_names(
    world: World, role_store: RoleStore, locked: dict[str, str]
) -> None:
    main = role_store.github.subject
    pushed = world.run(
        "role", who=None, files=locked, variables=ROLES, environ=_as_job(role_store, main), hub=world.hub
    )
    asked = _as_job(role_store, PULL_REQUEST)
    read = world.run("role", "pull_request", who=None, files=locked, variables=ROLES, environ=asked, hub=world.hub)
    role_store.github.subject = main

    for ran in (pushed, read):
        assert ran.status == 0, ran.text
        assert ran.printed.endswith(PUBLISHED)
        assert "modelcache.lock" in ran.summaries[0]
        for token in role_store.github.issued:
            assert token not in ran.text
    assert "### Models: fetched" in pushed.summaries[0]
    assert "### Models: hit" in read.summaries[0]
    assert world.requests == []
    assert [group.partition("@")[0] for group in read.groups] == ["restore org/small", f"restore {REPO}"]
    assert "may run code when loaded" in read.summaries[0], "of a pickle file"


def test_a_stale_lock_is_an_error_on_a_line_of_the_lock(
    world: World, role_store: RoleStore, locked: dict[str, str]
) -> None:
    stale = {**locked, "modelcache.toml": PROJECT.replace(f'"{REPO}"', f'"{REPO}"\nrevision = "v2"')}
    environ = _as_job(role_store, role_store.github.subject)

    ran = world.run("role", who=None, files=stale, variables=ROLES, environ=environ)

    assert (ran.status, ran.exit_codes) == (1, [2]), ran.text
    (error,) = ran.annotations
    assert (error.level, error.file) == ("error", "modelcache.lock")
    assert int(error.line) >= 1
    assert "ci-modelcache lock" in error.message
    assert world.requests == []


# --- the other actions


def test_at_night_what_is_missing_is_fetched_and_what_is_there_is_left_alone(world: World) -> None:
    world.empty()

    first = world.run("nightly", "schedule")
    again = world.run("nightly", "workflow_dispatch")

    assert (first.status, again.status) == (0, 0), first.text + again.text
    looked = first.outputs("stored")
    assert (looked["cache-hit"], looked["result"], looked["path"]) == ("false", "miss", "")
    assert first.outputs("fetched")["result"] == "fetched"
    assert (again.outputs("stored")["cache-hit"], again.outputs("stored")["result"]) == ("true", "hit")
    assert again.results("fetched") == []
    assert world.requests == []


def test_twenty_jobs_of_a_matrix_cause_one_fetch(world: World) -> None:
    world.empty()

    ran = world.run("matrix")

    assert ran.status == 0, ran.text
    assert ran.results("models") == ["success"] * 20
    assert len(ran.jobs) == 21
    assert ran.printed.count("tests the commit") == 20
    asked = [seen.target.partition("?")[0] for seen in world.small.requests(method="GET", server=CDN)]
    assert len(asked) == len(set(asked)) == len(SMALL) - 1, "every large file once, and config.json is none"


def test_a_model_that_one_job_has_trained_is_restored_by_the_next(world: World) -> None:
    world.empty()
    train = """
from pathlib import Path
for name in ("config.json", "model.safetensors", "checkpoint-1/model.safetensors"):
    file = Path("trained", name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
"""

    ran = world.run("save", files={"train.py": train})

    assert ran.status == 0, ran.text
    saved, restored = ran.outputs("saved"), ran.outputs("models")
    assert saved["result"] == "saved"
    assert (restored["result"], restored["cache-hit"]) == ("hit", "true")
    assert (restored["revision"], restored["digest"]) == (saved["revision"], saved["digest"])
    assert sum("/blobs/" in key for key in world.stored()) == 1, "two files of one content, and no checkpoint"


def test_an_exported_archive_is_read_by_tar_and_sha256sum(world: World, tmp_path: Path) -> None:
    world.fill()

    ran = world.run("export", "schedule", edit={"secrets.BACKUP_": "secrets.AWS_"})

    assert ran.status == 0, ran.text
    outputs = ran.outputs("backup")
    assert outputs["result"] == "hit"
    (key,) = world.stored("my-backups")
    assert key == f"models-{outputs['digest']}.tar"
    admin(world.server).download_file("my-backups", key, str(tmp_path / "models.tar"))
    for command in (["tar", "xf", "models.tar"], ["sha256sum", "--check", "--quiet", "SHA256SUMS"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert list(tmp_path.rglob(WEIGHTS))


def test_a_nightly_backup_is_what_the_monthly_one_lacks_and_both_together_are_the_store(
    world: World, tmp_path: Path
) -> None:
    world.fill()
    by_hand = world.run("backup", "workflow_dispatch")
    nightly = world.run("backup", "schedule", edit={'" = 01 ]': '" = 00 ]'})

    for ran in (by_hand, nightly):
        assert ran.status == 0, ran.text
        assert ran.outputs("backup")["result"] == "hit"
    sizes = {key: world.size(key, "my-backups") for key in world.stored("my-backups") if len(key) < 30}
    (full,) = (key for key in sizes if re.fullmatch(r"models-\d{4}-\d\d\.tar", key))
    (new,) = (key for key in sizes if re.fullmatch(r"models-\d{4}-\d\d-\d\d\.tar", key))
    assert sizes[new] < 30_000 < sizes[full]
    for key in (full, new):
        world.cli("import", f"s3://my-backups/{key}", "--store", str(tmp_path / "store"))
    world.cli(
        "restore", f"{REPO}@main", "--to", str(tmp_path / "model"), "--store", str(tmp_path / "store"), "--offline"
    )
    assert (tmp_path / "model" / WEIGHTS).is_file()


# --- more than the examples


TWICE = """
on: [push]
env:
  CI_MODELCACHE_STORE: ${{ github.workspace }}/store
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - id: first
        uses: ci-modelcache/ci-modelcache@v1
        with:
          models: org/small@main
      - id: second
        uses: ci-modelcache/ci-modelcache@v1
        with:
          models: dataset:org/questions@main
      - run: ls store/modelcache.json
"""


def test_a_second_use_in_a_job_may_ask_the_hub_though_the_first_one_has_set_it_offline(world: World) -> None:
    ran = world.run(TWICE)

    assert ran.status == 0, ran.text
    assert ran.variables["HF_HUB_OFFLINE"] == "1"
    assert [ran.outputs(step)["result"] for step in ("first", "second")] == ["fetched", "fetched"]


HOSTILE = """$(touch {0})`touch {0}`';touch {0};'"; touch {0}; "
::set-output name=owned::1
owned=1
EOF
::error::owned
"""
INPUTS = ("models", "store", "path", "lock-file", "include", "deadline", "mode", "mirrors", "endpoint-url")
OTHERS = ("--help", "%0A::set-output name=owned::1")
BRANCH = "a$(touch${IFS}owned)`touch${IFS}owned`%0A%0D;|&'\"<b>@EOF"
"""A name that git accepts."""


def test_nothing_that_an_input_says_is_run_or_taken_for_a_command(world: World, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    given = [*((name, HOSTILE.format(owned)) for name in INPUTS), *(("models", value) for value in OTHERS)]
    steps = [
        {
            "id": f"step{number}",
            "continue-on-error": True,
            "uses": act.ACTION,
            "with": {"models": "org/small@main", "store": "store", "offline": "true", name: value},
        }
        for number, (name, value) in enumerate(given)
    ]
    job = {"runs-on": "ubuntu-latest", "steps": [*steps, {"run": "find . -name owned"}]}

    ran = world.run(json.dumps({"on": ["push"], "jobs": {"test": job}}, indent=1))

    assert ran.status == 0, ran.text
    assert not owned.exists()
    _not_owned(ran)
    for number, _ in enumerate(given):
        assert ran.results(f"step{number}") == ["failure"], given[number]
        assert ran.outputs(f"step{number}")["cache-hit"] == "false"
        assert ran.outputs(f"step{number}")["result"] in {"error", "miss"}


def _not_owned(ran: act.Ran) -> None:
    for event in ran.events:
        assert event.get("name") != "owned", "an output or a variable was injected"
    assert all(annotation.message != "owned" for annotation in ran.annotations), "an annotation was injected"
    assert not any("owned" in line for line in ran.printed.splitlines() if line.startswith("./"))


def test_hostile_names_of_branches_and_files_are_restored_and_shown_as_text(world: World) -> None:
    files = {"config.json": b"{}", "<img src=x>|`x`.bin": b"1", "%0A%3A%3Aset-output name=owned%3A%3A1.pkl": b"2"}
    repository = world.small.add_repo("org/hostile", {"main": files})
    repository.branches[BRANCH] = repository.branches["main"]
    step = {"id": "models", "uses": act.ACTION, "with": {"models": f"org/hostile@{BRANCH}", "store": "store"}}
    job = {"runs-on": "ubuntu-latest", "steps": [step, {"run": "find . -name owned"}]}

    ran = world.run(json.dumps({"on": ["push"], "jobs": {"test": job}}, indent=1))

    assert ran.status == 0, ran.text
    _not_owned(ran)
    outputs = ran.outputs("models")
    assert json.loads(outputs["paths"]) == {f"org/hostile@{BRANCH}": outputs["path"]}
    (summary,) = ran.summaries
    assert "img src" in summary
    assert not re.search(r"(?<!\\)[<`@]", summary), "Markdown, HTML, or a mention of somebody"
