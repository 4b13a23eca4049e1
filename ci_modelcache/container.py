"""The only module that looks at where this process runs: in a container, in a step of the build of an image, with its cache mounted."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_MOUNT = Path("/var/cache/ci-modelcache")
"""Where a build mounts its cache: ``RUN --mount=type=cache,target=...``."""

_BUILDKIT = "buildkitsandbox"
_ENVIRON = Path("run/.containerenv")
_MOUNTS = Path("/proc/self/mountinfo")


def in_build(*, root: Path = Path("/"), host: str | None = None) -> bool:
    """
    Whether this is a step in the build of an image, where whatever is written outside of mounts becomes a layer.

    BuildKit is known by the host name of its `RUN` steps, buildah by what it writes into /run/.containerenv, kaniko by its
    folder. The builder that Docker had before BuildKit cannot be told from any other container.
    """
    if (host or os.uname().nodename) == _BUILDKIT or (root / "kaniko").is_dir():
        return True
    try:
        return 'engine="buildah' in (root / _ENVIRON).read_text(encoding="utf-8", errors="replace")
    except OSError:  # no such file, or one that Podman shows to root alone: its own containers, which are no builds
        return False


def in_container(*, root: Path = Path("/"), host: str | None = None) -> bool:
    """
    Whether this is a container, where files probably become an image layer.

    Docker leaves /.dockerenv and Podman /run/.containerenv; steps of builds may have neither.
    """
    marks = (root / ".dockerenv", root / _ENVIRON)
    return any(mark.exists() for mark in marks) or in_build(root=root, host=host)


def mounted_tier(folder: Path = CACHE_MOUNT) -> Path | None:
    """*folder*, where the cache mount of a build belongs, if it is a mount that this user may write; None where there is none."""
    return folder if os.access(folder, os.W_OK | os.X_OK) and _is_mounted(folder) else None


def _is_mounted(folder: Path) -> bool:
    """Whether something is mounted at *folder*; the system's list (proc(5)) also has what buildah mounts from one place of a disk to another."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return folder.is_mount()
    return str(folder.resolve()) in {mount.split(" ")[4] for mount in mounts}
