"""In an image with only Python, ci-modelcache.pyz works for every user, and what it restores is all that it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.parts.buildah import Buildah
from tests.parts.engine import PYTHON

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.buildah import Builder

# The engine may have to be started, and the file to be built.
pytestmark = pytest.mark.timeout(1200)

STEPS = {
    "root": "",
    "root-without-home": "env --unset=HOME",
    "root-with-home-that-is-none": "HOME=/nonexistent",
    "user": "",
    "user-with-home-of-another": "HOME=~root",
    "user-with-home-that-is-read-only": "HOME=/sys",
    "user-without-site": "python3 -B -I -S /usr/local/bin/",
}
"""What is said before the program, by the name of the folder that it restores to; ``user`` has no rights, nor a writable /tmp."""


def _dockerfile() -> str:
    """
    A stage whose last file is /prepared, and one with `STEPS`.

    Python has no compiled library there, as in the images of the Python project: what it compiled would be seen in a layer.
    """
    lines = [
        f"FROM {PYTHON} AS prepared",
        "COPY ci-modelcache.pyz /usr/local/bin/ci-modelcache",
        "COPY store /store",
        "RUN find / -xdev -type d -name __pycache__ -prune -exec rm -rf {} +",
        "RUN chmod 755 /tmp /var/tmp && mkdir -m 777 /models && touch /prepared",
        "FROM prepared",
        "RUN ci-modelcache --version & ci-modelcache --version && wait",
    ]
    for name, before in STEPS.items():
        if name == "user":
            lines.append("USER 1234:1234")
        command = f"{before}ci-modelcache" if before.endswith("/") else f"{before} ci-modelcache"
        lines.append(f"RUN {command} restore org/tiny@main --store /store --offline --to /models/{name}")
    return "\n".join(lines)


def test_a_step_leaves_what_it_restored_and_nothing_else(builder: Builder, single_file: Path, tmp_path: Path) -> None:
    context, model = tmp_path / "context", tmp_path / "model"
    context.mkdir()
    model.mkdir()
    (model / "config.json").write_text('{"hidden_size": 8}')
    shutil.copy(single_file, context / "ci-modelcache.pyz")
    save = [
        sys.executable,
        "-m",
        "ci_modelcache",
        "save",
        str(model),
        "org/tiny@main",
        "--store",
        str(context / "store"),
    ]
    subprocess.run(save, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, check=True)
    (context / "Dockerfile").write_text(_dockerfile())
    image = builder.image("single-file")

    # buildah then makes one layer of each stage, which is much faster.
    done = builder.build(context, tag=image, no_cache=True, layers=False)

    assert done.code == 0, done
    layers = builder.layers(image)
    builder.remove(image)
    (prepared,) = [index for index, layer in enumerate(layers) if "prepared" in layer.members]
    left = {path for layer in layers[prepared + 1 :] for path in layer.members}
    # Builders note in these, with their time, that they mounted something there.
    noted = {"etc", "run"} if isinstance(builder, Buildah) else {"etc"}
    assert left - noted == {"models"} | {
        path for name in STEPS for path in (f"models/{name}", f"models/{name}/config.json")
    }
