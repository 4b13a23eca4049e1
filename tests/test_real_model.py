"""
The main promise on real parts: a real model goes from a Hub into a store and back, and everybody can read it there.

The commands are run as a user runs them, in processes of their own, against the embedded store and SeaweedFS.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve, frozen

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.demo.model import REPO
from tests.parts.minilm import embed
from tests.parts.servers import ADMIN, BUCKET, REGION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.hub_clients import HubClient
    from tests.parts.servers import S3Server

FOLDER = f"models--{REPO.replace('/', '--')}"


@frozen
class Shell:
    """Runs ``ci-modelcache`` with settings in the environment, as a CI job would."""

    environ: dict[str, str]
    cwd: Path

    def run(self, *argv: str | Path) -> dict[str, Any]:
        """The JSON that the command prints; it must succeed."""
        command = [sys.executable, "-m", "ci_modelcache", *map(str, argv), "--json"]
        done = subprocess.run(command, env=self.environ, cwd=self.cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def restored(self, *argv: str | Path) -> dict[str, Any]:
        """The report of the one snapshot that ``restore`` restored."""
        (snapshot,) = self.run("restore", REPO, *argv)["snapshots"]
        return dict(snapshot)


@pytest.fixture(scope="module")
def files(model: Path) -> dict[str, str]:
    """The sha256 of every file of the model."""
    return {
        file.relative_to(model).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in model.rglob("*")
        if file.is_file()
    }


@pytest.fixture(scope="module")
def hub(model: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        running.add_repo(REPO, {"main": model})
        yield running


@pytest.fixture(scope="module", params=["embedded", "seaweedfs"])
def shell(request: pytest.FixtureRequest, hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell whose store is filled already, by ``fetch``."""
    folder = tmp_path_factory.mktemp(request.param)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "CI_MODELCACHE_ENDPOINT": hub.url}
    if request.param == "seaweedfs":
        server: S3Server = request.getfixturevalue("seaweedfs_server")
        environ |= {
            "CI_MODELCACHE_STORE": f"s3://{BUCKET}/real",
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ADMIN[0],
            "AWS_SECRET_ACCESS_KEY": ADMIN[1],
        }
    shell = Shell(environ, folder)
    report = shell.run("fetch", REPO)
    (fetched,) = report.get("snapshots", [report])
    assert fetched["result"] == "miss"
    hub.forget()
    return shell


def test_a_filled_store_restores_a_plain_folder_without_asking_the_hub(
    shell: Shell, hub: LoopbackHub, files: dict[str, str], tmp_path: Path
) -> None:
    report = shell.restored("--to", tmp_path / "model")

    assert report["result"] == "hit"
    found = {
        file.relative_to(tmp_path / "model").as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (tmp_path / "model").rglob("*")
        if file.is_file()
    }
    assert found == files
    assert hub.requests() == []


def test_unmodified_hub_clients_of_four_generations_open_the_restored_cache_offline(
    shell: Shell, hub_client: HubClient, files: dict[str, str], tmp_path: Path
) -> None:
    report = shell.restored("--hub-cache", tmp_path / "hub")

    path = hub_client.run(
        "from huggingface_hub import snapshot_download, hf_hub_download\n"
        "result = snapshot_download(repo)\n"
        "assert hf_hub_download(repo, '1_Pooling/config.json').startswith(result)",
        cache=tmp_path / "hub",
        repo=REPO,
    )
    assert path == report["path"]
    found = {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in Path(path).rglob("*")
        if file.is_file()
    }
    assert found == files


def test_the_restored_model_computes_the_published_similarity(shell: Shell, tmp_path: Path) -> None:
    """sbert.net gives 0.7553 for these two sentences and this model."""
    snapshot = Path(shell.restored("--to", tmp_path / "model")["path"])

    eating, bread = embed(snapshot, "A man is eating food."), embed(snapshot, "A man is eating a piece of bread.")
    assert float(eating @ bread) == pytest.approx(0.7553, abs=1e-4)


def test_a_second_restore_finds_everything_in_place(shell: Shell, hub: LoopbackHub, tmp_path: Path) -> None:
    first = shell.restored("--hub-cache", tmp_path / "hub")
    again = shell.restored("--hub-cache", tmp_path / "hub")

    assert (first["result"], again["result"]) == ("hit", "local")
    assert again["bytes_downloaded"] == again["files_restored"] == 0
    assert hub.requests() == []


def test_verify_reads_every_byte_of_the_store_and_finds_it_right(shell: Shell, model: Path) -> None:
    report = shell.run("verify", REPO)

    assert report["problems"] == []
    assert report["bytes_read"] == sum(file.stat().st_size for file in model.rglob("*") if file.is_file())


def test_offline_and_locked_restores_ask_nobody_but_the_store(shell: Shell, hub: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "modelcache.toml").write_text(f'[[models]]\nrepo = "{REPO}"\n')
    project = evolve(shell, cwd=tmp_path)
    project.run("lock")
    hub.forget()

    (report,) = project.run("restore", "--locked", "--offline", "--to", tmp_path / "model")["snapshots"]

    assert (report["anchor"], report["result"]) == ("lock", "hit")
    assert hub.requests() == []


def test_awscli_and_sha256sum_recover_the_model_without_us(
    request: pytest.FixtureRequest, hub: LoopbackHub, files: dict[str, str], tmp_path: Path
) -> None:
    """The recipe of docs/format.md, step by step, with the real tools."""
    server: S3Server = request.getfixturevalue("seaweedfs_server")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ADMIN[0],
        "AWS_SECRET_ACCESS_KEY": ADMIN[1],
        "CI_MODELCACHE_ENDPOINT": hub.url,
    }
    store = f"s3://{BUCKET}/recovery"
    Shell(environ, tmp_path).run("fetch", REPO, "--store", store)

    def aws(*arguments: str) -> None:
        command = [str(Path(sys.executable).parent / "aws"), "s3", "cp", "--no-progress", *arguments]
        subprocess.run(command, env=environ, cwd=tmp_path, check=True, capture_output=True)

    def document(key: str) -> dict[str, Any]:
        aws(f"{store}/{key}", "document.json")
        content: dict[str, Any] = json.loads((tmp_path / "document.json").read_bytes())
        return content

    host, organisation, name = hub.url.removeprefix("http://").replace(":", "_3A"), *REPO.split("/")
    head = document(f"heads/v1/{host}/model/{organisation}/{name}/main.json")
    ref = document(f"refs/v1/{host}/model/{organisation}/{name}/{head['commit']}/all.json")
    digest = ref["manifest"]
    manifest = document(f"manifests/sha256/{digest[:2]}/{digest}")
    assert _sha256sum("document.json", tmp_path) == digest
    aws("--recursive", f"{store}/blobs", "blobs")
    for file in manifest["files"]:
        sha256 = file["sha256"]
        blob = f"blobs/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"
        assert _sha256sum(blob, tmp_path) == sha256 == files[file["path"]]
    assert {file["path"] for file in manifest["files"]} == set(files)


def _sha256sum(name: str, folder: Path) -> str:
    done = subprocess.run(["sha256sum", name], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.split()[0]
