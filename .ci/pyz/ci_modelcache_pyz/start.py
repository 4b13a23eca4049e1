"""The only module that decides from where the single file runs: from itself, or unpacked in the user's cache folder."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

from ci_modelcache_pyz.container import in_build, in_container

_HEADER = 3
"""Lines before the zip; the third ends with the SHA-256 of all that follows them."""
_DAY = 24 * 60 * 60
_UNUSED = 30 * _DAY
"""Seconds without a start after which an unpacked version is removed, when another one is unpacked."""


def run(file: Path) -> int:
    """
    Run the program that is in *file* with the command line of this process; returns its exit code.

    Where an image may be in the making, and where this user can keep nothing, modules are read from *file* and nothing is
    written. Elsewhere it is unpacked once, and later starts find it compiled. A damaged *file* ends the process.
    """
    key = _key(file)
    folder = None if _may_become_a_layer() else _unpacked(file, key)
    if folder is None:
        _prove(file, key)
        from ci_modelcache_pyz.zipped import import_from  # noqa: PLC0415  # what is unpacked needs none of it

        import_from(file)
    else:
        # The file's first line says -B, for images; here the user decides.
        sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[0] = str(folder or file)
    from ci_modelcache.cli.main import main  # noqa: PLC0415  # from where sys.path now says

    return main()


def _may_become_a_layer() -> bool:
    """Whether what is written may: in any container, as the oldest builds look like one, unless it is a CI job's."""
    return in_build() or (in_container() and not os.environ.get("CI"))


def _key(file: Path) -> str:
    """The SHA-256 that *file* should have below its header."""
    with file.open("rb") as content:
        header = [content.readline() for _ in range(_HEADER)]
    key = header[-1].decode("ascii", errors="replace").removeprefix("# sha256 ").strip()
    return key if key.isalnum() else "unreadable"  # it names a folder


def _prove(file: Path, key: str) -> None:
    """End the process, with the exit code of wrong bytes, unless the SHA-256 of *file* is *key*: nothing of it may be run."""
    import hashlib  # noqa: PLC0415  # 10 ms that the start of what is unpacked does not pay for

    with file.open("rb") as content:
        for _ in range(_HEADER):
            content.readline()
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != key:
        sys.stderr.write(
            f"error: {file} is damaged: its SHA-256 is {found}, expected {key}\n  hint: copy or download it again\n"
        )
        sys.exit(13)


def _unpacked(file: Path, key: str) -> Path | None:
    """The folder with what is in *file*, filled now if need be; None where this user cannot have one."""
    try:
        cache = _cache()
        if cache is None:
            return None
        folder = cache / "ci-modelcache" / "program" / key
        if not _is_ours(folder):
            _unpack(file, key, folder)
    except OSError:  # nothing can be written there, or not even looked at
        return None
    return folder


def _cache() -> Path | None:
    """The user's folder for caches, which need not exist yet; none that would be in somebody else's, as under ``sudo``."""
    home = os.environ.get("HOME", "")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else ""))
    existing = next(each for each in (cache, *cache.parents) if each.exists())
    return cache if cache.is_absolute() and existing.stat().st_uid == os.geteuid() else None


def _is_ours(folder: Path) -> bool:
    """Whether *folder* exists, filled by nobody else; raises OSError where another's is in its place."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        msg = "not a folder that only this user can have filled"
        raise PermissionError(msg)
    if time.time() - found.st_mtime > _DAY:
        os.utime(folder)  # it is in use: see the end of `_unpack`
    return True


def _unpack(file: Path, key: str, folder: Path) -> None:
    """All of *file* appears as *folder* at once, or nothing does; raises OSError."""
    import shutil  # noqa: PLC0415  # once per version
    import zipfile  # noqa: PLC0415  # as above

    _prove(file, key)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = folder.with_name(f".{os.urandom(8).hex()}")
    scratch.mkdir(mode=0o700)
    try:
        with zipfile.ZipFile(file) as content:
            content.extractall(scratch)
        try:
            scratch.rename(folder)
        except OSError:
            if not _is_ours(folder):
                raise  # else another process was first
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for each in folder.parent.iterdir():
        # Other versions, and what a killed run left.
        if time.time() - each.lstat().st_mtime > _UNUSED:
            shutil.rmtree(each, ignore_errors=True)
