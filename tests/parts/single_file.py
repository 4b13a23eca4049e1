"""The only module that builds ci-modelcache.pyz for tests: once for all workers, by the command of docs/development.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

ROOT = Path(__file__).parent.parent.parent


def build_single_file(target: Path) -> Path:
    """*target*, made by the command that docs/development.md shows, which needs a package index; takes some ten seconds."""
    text = (ROOT / "docs" / "development.md").read_text()
    found = re.search(r"<!-- command: single file -->\n```\w*\n(.+?)\n```", text, re.DOTALL)
    assert found, "docs/development.md does not say how to build the single file"
    python, script, output = shlex.split(found[1])
    assert (python, output) == (".venv/bin/python", "build/ci-modelcache.pyz")
    command = [sys.executable, script, str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return target


@pytest.fixture(scope="session")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ci-modelcache.pyz``, executable, as an image gets it; a test that is the first to ask for it may take some minutes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the same for all workers
    file = folder / "ci-modelcache.pyz"
    with filelock.FileLock(folder / "ci-modelcache.pyz.lock"):
        return file if file.exists() else build_single_file(file)
