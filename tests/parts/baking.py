"""
The only module that makes projects whose models go into images: a lock, its store in SeaweedFS, and what a build is lent.

The store is reached through a relay that counts, so that "no request" can be seen; builds have the host's network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import field, frozen

from ci_modelcache.demo.hub import LoopbackHub
from tests.parts.buildah import Builder
from tests.parts.documents import ROOT
from tests.parts.engine import PYTHON, Done, Engine
from tests.parts.faults import Relay, relaying
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci_modelcache.demo.repository import Files
    from tests.parts.images import Layer, Member

EXAMPLES = ROOT / "examples" / "docker"
REPO = "acme/tiny"
PLACE = f"models/{REPO}"
"""Where the model lies in an image, without the first slash."""


@frozen
class Project:
    """
    A build context in *folder*: lock and program, no Dockerfile yet. *relay* is the way to the store, *secrets* are what builds are lent.

    What is below *outside* is not in the context.
    """

    folder: Path
    outside: Path
    relay: Relay
    hub: LoopbackHub
    store: str
    secrets: dict[str, Path] = field(factory=dict)
    files: dict[str, bytes] = field(factory=dict)
    """The model, where it was given as bytes."""

    # --- before the build

    def cli(self, *arguments: str | Path, environ: Mapping[str, str] | None = None) -> str:
        """What ``ci-modelcache`` prints in the folder, as somebody at a machine of their own; it must succeed."""
        command = [sys.executable, "-m", "ci_modelcache", *map(str, arguments)]
        key, secret = ADMIN
        variables = {
            "PATH": os.environ["PATH"],
            **(environ or {}),
            "HOME": str(self.outside),
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        done = subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def publish(self, files: Files, repo: str = REPO) -> None:
        """The Hub's model has these *files* from now on; they are locked, and in the store."""
        self.hub.add_repo(repo, {"main": files})
        self.files.clear()
        if not isinstance(files, Path):
            self.files.update({path: data for path, data in files.items() if isinstance(data, bytes)})
        (self.folder / "modelcache.toml").write_text(
            f'store = "{self.store}"\nendpoint-url = "{self.relay.endpoint}"\nregion = "{REGION}"\n'
            f'endpoint = "{self.hub.url}"\n\n[[models]]\nrepo = "{repo}"\n'
        )
        self.cli("lock", "--upgrade")
        self.forget()

    def forget(self) -> None:
        """Count from here."""
        self.hub.forget()
        self.relay.seen.clear()

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Requests to the store."""
        return list(self.relay.seen)

    @property
    def blobs(self) -> list[str]:
        """The blobs that were read from the store."""
        return [path for method, path in self.relay.seen if method == "GET" and "/blobs/" in path]

    @property
    def settings(self) -> dict[str, str]:
        """What the examples take as build arguments; none of it is secret."""
        return {
            "BASE": PYTHON,
            "PYTHON": PYTHON,
            "CI_MODELCACHE_STORE": self.store,
            "CI_MODELCACHE_ENDPOINT_URL": self.relay.endpoint,
            "CI_MODELCACHE_REGION": REGION,
        }

    # --- building

    def build(self, builder: Builder, text: str | Path, **options: Any) -> Built:
        """Build *text*, or the example of that path, and expect that it can be built."""
        image = builder.image("baked")
        done = self.try_build(builder, text, tag=image, **options)
        assert done.code == 0, done
        return Built(builder, image, done)

    def try_build(
        self,
        builder: Builder,
        text: str | Path,
        *arguments: str,
        args: Mapping[str, str] | None = None,
        secrets: Mapping[str, Path] | None = None,
        context: Path | None = None,
        **options: Any,
    ) -> Done:
        """
        The same, however it ends.

        *secrets* are by default those of the project, *args* come on top of `settings`, *context* is a tar in place of the folder.
        """
        written = text.read_text() if isinstance(text, Path) else text
        needed = {name: value for name, value in {**self.settings, **(args or {})}.items() if f"ARG {name}" in written}
        words = [*(f"--build-arg={name}={value}" for name, value in needed.items()), *arguments]
        lent = self.secrets if secrets is None else secrets
        if context is not None:
            assert isinstance(builder, Engine)
            with context.open("rb") as stream:
                return builder.build(None, *words, stdin=stream, secrets=lent, **options)
        dockerfile = self.outside / f"Dockerfile-{uuid.uuid4().hex[:8]}"
        dockerfile.write_text(written)
        return builder.build(self.folder, *words, dockerfile=dockerfile, secrets=lent, **options)


@frozen
class Built:
    """An image that was built."""

    builder: Builder
    image: str
    done: Done

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.builder.layers(self.image)

    def layer_of(self, path: str = PLACE) -> Layer:
        """The only layer that has anything below *path*."""
        (found,) = [layer for layer in self.layers if any(name.startswith(f"{path}/") for name in layer.members)]
        return found

    def find(self, path: str) -> Member | None:
        """What is at *path*, in the topmost layer that has it."""
        for layer in reversed(self.layers):
            if path in layer.members:
                return layer.members[path]
        return None


def credentials_file(path: Path, credentials: tuple[str, str] = READER) -> Path:
    """*path*, with *credentials* as AWS's tools write them."""
    key, secret = credentials
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    path.chmod(0o600)
    return path


def fresh() -> dict[str, bytes]:
    """A model that was in no build before: cache mounts are shared by all builds of an engine."""
    return {
        "config.json": json.dumps({"model_type": "bert", "id": uuid.uuid4().hex}).encode(),
        "empty.txt": b"",
        "model.safetensors": os.urandom(1 << 20),
        "onnx/model.onnx": os.urandom(1 << 18),
    }


@contextmanager
def baking(folder: Path, server: S3Server, single_file: Path, files: Files, repo: str = REPO) -> Iterator[Project]:
    """A project below *folder* with *files* as its model, and credentials that may only read."""
    context, outside = folder / "context", folder / "outside"
    context.mkdir()
    outside.mkdir()
    shutil.copy(single_file, context / "ci-modelcache.pyz")
    store = f"s3://{BUCKET}/baked-{uuid.uuid4().hex[:8]}"
    with relaying(server.port) as relay, LoopbackHub(cdn=False) as hub:
        project = Project(context, outside, relay, hub, store)
        project.secrets["aws"] = credentials_file(outside / "aws-credentials")
        project.publish(files, repo)
        yield project


def context_tar(project: Project, dockerfile: str, *options: str) -> Path:
    """The tar of a context with *dockerfile* and the models, as ``docker context --tar`` writes it."""
    (project.folder / "Dockerfile").write_text(dockerfile)
    tar = project.outside / "context.tar"
    project.cli("docker", "context", "--tar", tar, ".", *options)
    return tar


@pytest.fixture
def project(tmp_path: Path, seaweedfs_server: S3Server, single_file: Path) -> Iterator[Project]:
    """A project with a small model that is new."""
    with baking(tmp_path, seaweedfs_server, single_file, fresh()) as made:
        yield made
