"""Real, unmodified ``huggingface_hub`` of four generations, each alone in a folder, and always offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pytest
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSIONS = ("0.23.0", "0.36.0", "1.21.0", "2.4.0")
"""The oldest supported, the last with `requests`, the last without tree listings, the newest."""

_PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"


@frozen
class HubClient:
    """One *version*, installed with its dependencies in *folder*."""

    version: str
    folder: Path

    def run(self, snippet: str, *, cache: Path, **given: str) -> Any:
        """
        Run *snippet* against the cache folder *cache*; returns what it has put into ``result``, by way of JSON.

        It finds the *given* strings as variables. No request can succeed: the client is told that it is offline, and
        its endpoint is a loopback port on which nobody listens. What it says on stderr fails the test when it fails.
        """
        assignments = "\n".join(f"{name} = {value!r}" for name, value in given.items())
        code = f"import json\n{assignments}\n{snippet}\nprint(json.dumps(result))"
        # -S: nothing of the environment that runs the tests is seen, above all not its own huggingface_hub.
        command = [sys.executable, "-S", "-c", code]
        done = subprocess.run(
            command, env=self._environment(cache), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"huggingface_hub {self.version} failed:\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    def _environment(self, cache: Path) -> Mapping[str, str]:
        return {
            "PATH": os.defpath,
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(cache.parent),
            "HF_HOME": str(cache.parent),
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_ENDPOINT": "http://127.0.0.1:1",
        }


@pytest.fixture(scope="session")
def hub_clients(pytestconfig: pytest.Config) -> dict[str, HubClient]:
    """Every version of `VERSIONS`; installed once per checkout and Python, which needs a package index."""
    home = pytestconfig.rootpath / ".pytest_cache" / "hub-clients"
    home.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(VERSIONS)) as pool:
        clients = pool.map(lambda version: _installed(version, home), VERSIONS)
    return {client.version: client for client in clients}


@pytest.fixture(params=VERSIONS)
def hub_client(request: pytest.FixtureRequest, hub_clients: dict[str, HubClient]) -> HubClient:
    """Each version in turn."""
    return hub_clients[request.param]


def _installed(version: str, home: Path) -> HubClient:
    folder = home / f"{_PYTHON}-{version}"
    with filelock.FileLock(home / f"{folder.name}.lock", timeout=300):
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(dir=home, prefix=".installing-"))
            try:
                _install(version, unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return HubClient(version, folder)


def _install(version: str, folder: Path) -> None:
    requirement = f"huggingface_hub=={version}"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-warn-script-location"]
    command = [sys.executable, "-m", "pip", "install", *quiet, "--target", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"pip could not install {requirement}:\n{done.stderr}"
