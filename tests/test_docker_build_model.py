"""The image runs the real model: a container without a network computes what the model's makers have published."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import pytest

from ci_modelcache.demo.model import REPO
from tests.parts.baking import EXAMPLES, baking
from tests.parts.engine import PYTHON

if TYPE_CHECKING:
    from tests.parts.engine import Engine
    from tests.parts.servers import S3Server

# An engine, a program, a base image and libraries are got by whoever is the first to need them.
pytestmark = pytest.mark.timeout(900)

_LIBRARIES = ("huggingface_hub==2.4.0", "numpy", "safetensors", "tokenizers")
_PROGRAM = f"""
import os
from pathlib import Path
from huggingface_hub import snapshot_download
from minilm import embed

assert os.environ["HF_HUB_OFFLINE"] == "1"
snapshot = Path(snapshot_download({REPO!r}))
eating, bread = embed(snapshot, "A man is eating food."), embed(snapshot, "A man is eating a piece of bread.")
print("similarity", round(float(eating @ bread), 4))
"""


@pytest.fixture
def libraries(pytestconfig: pytest.Config) -> Path:
    """What the program needs, for the Python of the base image; got by pip once per checkout."""
    home = pytestconfig.rootpath / ".pytest_cache"
    folder = home / "minilm-libraries"
    with filelock.FileLock(home / "minilm-libraries.lock", timeout=600):
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(dir=home, prefix=".installing-"))
            wheels = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
            wheels += [f"--platform=manylinux{each}_{platform.machine()}" for each in ("2014", "_2_28", "_2_17")]
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                *wheels,
                f"--target={unfinished}",
                *_LIBRARIES,
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
            assert done.returncode == 0, done.stderr
            unfinished.rename(folder)
    return folder


def test_a_container_without_a_network_computes_the_published_similarity(
    engine: Engine, seaweedfs_server: S3Server, single_file: Path, model: Path, libraries: Path, tmp_path: Path
) -> None:
    """sbert.net gives 0.7553 for these two sentences and this model."""
    base = engine.image("libraries")
    (tmp_path / "base").mkdir()
    shutil.copytree(libraries, tmp_path / "base" / "libraries", copy_function=shutil.copy)
    shutil.copy(Path(__file__).parent / "parts" / "minilm.py", tmp_path / "base" / "libraries")
    (tmp_path / "base" / "Dockerfile").write_text(
        f"FROM {PYTHON}\nCOPY libraries /libraries\nENV PYTHONPATH=/libraries\n"
    )
    done = engine.build(tmp_path / "base", tag=base)
    assert done.code == 0, done

    with baking(tmp_path, seaweedfs_server, single_file, model, REPO) as project:
        built = project.build(engine, EXAMPLES / "run.Dockerfile", args={"BASE": base})

    for user in ("root", "10001"):
        ran = engine.run(built.image, "python3", "-c", _PROGRAM, network="none", user=user)
        assert ran.last == "similarity 0.7553", ran
