"""
The only module that starts object stores for tests: SeaweedFS, ``rclone serve s3`` and moto, on free ports of loopback.

Each is a real process, started once per test session (and per worker of pytest-xdist), with its data in a
temporary folder, and ended by its process id. A binary that is missing is an error.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Identity = dict[str, Any]
"""As the server's own configuration has it."""

REGION = "us-east-1"
BUCKET = "models"
ADMIN = ("AKIDTESTADMIN0000001", "secret-of-the-admin")
READER = ("AKIDTESTREADER000001", "secret-of-the-reader")

_READY = 60.0
"""Seconds that a server may take to answer on a busy machine."""


@frozen
class S3Server:
    """A running object store that speaks S3, with the bucket `BUCKET`, owned by `ADMIN`."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the process at once, also when a test has paused it; nothing in its folder is worth a farewell."""
        self.process.kill()
        self.process.wait(10)


def login(monkeypatch: pytest.MonkeyPatch, credentials: tuple[str, str] = ADMIN) -> None:
    """Put *credentials* where the next store that is opened finds them."""
    access_key, secret = credentials
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nobody listens now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def program(name: str) -> str:
    """The path of a program that the extra ``test`` installs; fails the test when it is missing."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing; run: pip install -e '.[test]'")
    return found


@contextmanager
def serving(command: list[str], *, port: int, folder: Path) -> Iterator[S3Server]:
    """Yield the server that *command* starts on *port* with *folder* as home, once it answers; end it after."""
    home = folder / "home"
    home.mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    server = S3Server(port=port, process=process)
    try:
        _wait_until_ready(server, log)
        yield server
    finally:
        server.stop()


def _wait_until_ready(server: S3Server, log: Path) -> None:
    end = time.monotonic() + _READY
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    pytest.fail(f"{server.process.args!r} did not become ready:\n{log.read_text(errors='replace')[-2000:]}")


def make_bucket(server: S3Server) -> None:
    """Make `BUCKET` as `ADMIN`."""
    import boto3  # noqa: PLC0415  # slow, and not needed by every test session

    access_key, secret = ADMIN
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()


@contextmanager
def seaweedfs(
    folder: Path, *, identities: Iterable[Identity] = (), iam: Identity | None = None, options: Iterable[str] = ()
) -> Iterator[S3Server]:
    """
    A real distributed object store in one process; `READER` may only read and list.

    *identities* are known besides; *iam* is its configuration of roles, policies and an STS, if it is to have them; *options* are
    its own.
    """
    grants = {"admin": (ADMIN, ["Admin", "Read", "Write", "List", "Tagging"]), "reader": (READER, ["Read", "List"])}
    known: list[Identity] = [
        {"name": f"test-{name}", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, ((key, secret), actions) in grants.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [*known, *identities]}))
    (folder / "data").mkdir()
    listeners = ("s3", "master", "volume", "filer", "admin")
    ports = free_ports(2 * len(listeners))
    given = [f"-{name}.port={port}" for name, port in zip(listeners, ports[::2], strict=True)]
    given += [f"-{name}.port.grpc={port}" for name, port in zip(listeners, ports[1::2], strict=True)]
    given += ["-s3.config=s3.json", "-s3.iam=false", "-s3.autoCreateBucket=false", "-master.telemetry=false"]
    given += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    if iam is not None:
        (folder / "iam.json").write_text(json.dumps(iam))
        given.append("-s3.iam.config=iam.json")
    command = [program("weed"), "mini", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *given, *options]
    with serving(command, port=ports[0], folder=folder) as server:
        make_bucket(server)
        yield server


@contextmanager
def rclone(folder: Path, *, options: Iterable[str] = ()) -> Iterator[S3Server]:
    """A second dialect of S3, which silently ignores conditions: the store that must be detected."""
    (folder / "data" / BUCKET).mkdir(parents=True)
    (port,) = free_ports(1)
    address, credentials = f"127.0.0.1:{port}", ",".join(ADMIN)
    command = [program("rclone"), "serve", "s3", "data", "--addr", address, "--auth-key", credentials]
    with serving([*command, "--config", os.devnull, *options], port=port, folder=folder) as server:
        yield server


@contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    """A model of AWS, with its conditions and its error codes; it knows no permissions."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    with serving([program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port=port, folder=folder) as server:
        make_bucket(server)
        yield server


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server
