"""The only module that builds the world of this benchmark: an engine of its own, a store, a Hub, a model, and what they all weigh."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from benchmarks.docker.relay import CountingRelay
from tests.parts.engine import PYTHON, Done, Engine
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, seaweedfs
from tests.parts.single_file import build_single_file
from tests.parts.upstreams import REPO, Distant

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
MB = 1_000_000
STORE = f"s3://{BUCKET}/benchmark"
PEER = "benchmark/huggingface-hub:local"
"""The base image with ``huggingface_hub`` in it, which its way needs and which is not counted."""
_PEER_VERSION = "2.4.0"
_SMALL = {"config.json": 700, "tokenizer.json": 460_000, "tokenizer_config.json": 350, "README.md": 10_000}


@frozen
class Weight:
    """Bytes on disks: what the *engine* keeps, and what lies with the *client*."""

    engine: int
    client: int


@frozen
class World:
    """All that a way to build needs. *ours* is a build context with the lock, *plain* one with the model's files as they are."""

    engine: Engine
    ours: Path
    plain: Path
    home: Path
    store: CountingRelay
    hub: CountingRelay
    daemon: CountingRelay
    size: int

    @property
    def hub_url(self) -> str:
        return f"http://127.0.0.1:{self.hub.port}"

    @property
    def secret(self) -> Path:
        """Credentials that may read."""
        return self.home / "credentials"

    def cli(self, *arguments: str | Path) -> str:
        """What ``ci-modelcache`` prints in the context; it must succeed."""
        return _checked([sys.executable, "-m", "ci_modelcache", *arguments], self.environ, self.ours)

    def shell(self, line: str) -> str:
        """The same for a line of shell."""
        return _checked(["bash", "-euo", "pipefail", "-c", line], self.environ, self.ours)

    @property
    def settings(self) -> tuple[str, ...]:
        """What the Dockerfiles of examples/ are told."""
        values = {
            "BASE": PYTHON,
            "CI_MODELCACHE_STORE": STORE,
            "CI_MODELCACHE_ENDPOINT_URL": f"http://127.0.0.1:{self.store.port}",
            "CI_MODELCACHE_REGION": REGION,
        }
        return tuple(f"--build-arg={name}={value}" for name, value in values.items())

    @property
    def environ(self) -> dict[str, str]:
        key, secret = ADMIN
        return {
            **self.engine.environ,
            "PATH": f"{Path(sys.executable).parent}:{self.engine.environ['PATH']}",
            "HOME": str(self.home),
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def clean(self) -> None:
        """Nothing is left of any build: no image of ours, no cache, no context, no blob on the client's disk."""
        self.engine.close()
        self.engine.docker("builder", "prune", "--all", "--force")
        shutil.rmtree(self.ours / "modelcache", ignore_errors=True)
        shutil.rmtree(self.home / ".cache", ignore_errors=True)
        # What the last run left to be written is not to be this one's.
        os.sync()

    def begin(self) -> None:
        """Count from here."""
        for relay in (self.store, self.hub, self.daemon):
            relay.begin()

    def weigh(self) -> Weight:
        """What all builds left so far."""
        return Weight(_used(self.engine.folder / "data"), _used(self.ours, self.home))


def _checked(command: list[str | Path], environ: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)  # noqa: S603  # our own
    if done.returncode != 0:
        msg = f"{shlex.join(map(str, command))}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        raise RuntimeError(msg)
    return done.stdout


def _used(*folders: Path) -> int:
    """Bytes of disk below *folders*, a file with several names once."""
    told = _checked(["du", "--block-size=1", "--summarize", "--total", *folders], dict(os.environ), folders[0])
    return int(told.splitlines()[-1].split()[0])


def must(done: Done) -> str:
    """What a build printed; it must have succeeded."""
    if done.code != 0:
        raise RuntimeError(str(done))
    return done.output


@contextmanager
def world(folder: Path, *, size: int) -> Iterator[World]:
    """All of it below *folder*, with a model of about *size* bytes."""
    with ExitStack() as running:
        base = running.enter_context(_engine())
        server = running.enter_context(seaweedfs(folder / "store"))
        model = _model(folder / "model", size)
        far = running.enter_context(Distant(model))
        hub = running.enter_context(CountingRelay(("127.0.0.1", int(far.url.rpartition(":")[2]))))
        store = running.enter_context(CountingRelay(("127.0.0.1", server.port)))
        daemon = running.enter_context(CountingRelay(str(base / "docker.sock"), str(base / "counted.sock")))
        engine = Engine(base, f"unix://{base}/counted.sock", folder)
        for name in ("ours", "plain", "home"):
            (folder / name).mkdir()
        made = World(
            engine, folder / "ours", folder / "plain", folder / "home", store, hub, daemon, size=_size_of(model)
        )
        _fill(made, model)
        yield made


@contextmanager
def _engine() -> Iterator[Path]:
    script, folder = ROOT / ".ci" / "engine", Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        _checked([script, "start", folder], dict(os.environ), ROOT)
        yield folder
    finally:
        # Also when starting it was interrupted.
        if folder.exists():
            _checked([script, "stop", folder], dict(os.environ), ROOT)


def _model(folder: Path, size: int) -> Path:
    """A model of three large files and four small ones; nothing in them repeats."""
    numbers = random.Random(1)  # noqa: S311  # the same bytes in every run
    (folder / "onnx").mkdir(parents=True)
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "onnx/model.onnx"):
        with (folder / name).open("wb") as file:
            for _ in range(size // 3 // MB):
                file.write(numbers.randbytes(MB))
    for name, length in _SMALL.items():
        (folder / name).write_bytes(numbers.randbytes(length))
    return folder


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _fill(made: World, model: Path) -> None:
    """The store has the model, the context has the lock, the peer has its image."""
    (made.ours / "modelcache.toml").write_text(
        f'store = "{STORE}"\nendpoint-url = "http://127.0.0.1:{made.store.port}"\nregion = "{REGION}"\n'
        f'endpoint = "{made.hub_url}"\n\n[[models]]\nrepo = "{REPO}"\n'
    )
    key, secret = READER
    made.secret.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    made.cli("lock")
    build_single_file(made.ours / "ci-modelcache.pyz")
    shutil.copytree(model, made.plain / "model")
    (made.plain / "Dockerfile").write_text(f"FROM {PYTHON}\nCOPY model /models/{REPO}\n")
    libraries = made.home / "base" / "libraries"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--python-version=3.11"]
    pip += ["--only-binary=:all:", f"--target={libraries}", f"huggingface_hub=={_PEER_VERSION}"]
    _checked([*pip], dict(os.environ), made.home)
    (made.home / "base" / "Dockerfile").write_text(
        f"FROM {PYTHON}\nCOPY libraries /libraries\nENV PYTHONPATH=/libraries\n"
    )
    must(made.engine.build(made.home / "base", tag=PEER))
    time.sleep(1)  # seconds: the engine writes down what it has
