"""
The only module that knows the folder ``modelcache/`` of a build context: what is in it goes into an image, all of it and nothing else.

Its tree is that of the image's root. What we have put there is noted in the state folder, as a note beside it would go into images
too; only what is noted, and still is as it was, is ever removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.docker.dockerfile import CONTEXT
from ci_modelcache.errors import ConfigError
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.layouts.tidy import FOLDER_MODE
from ci_modelcache.transfer.land import replacing
from ci_modelcache.verbs.restore import RestoreReport

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_log = logging.getLogger(__name__)

_STAGING = ".ci-modelcache"
"""Our own name for what is being written (`model.path` reserves it)."""

_Mark = list[int | str]
"""Size, mtime in nanoseconds and mode of a file, and where a link leads."""


@frozen
class ContextReport:
    """What is in the folder of a build context now; sizes in bytes. This is API: fields are added, never changed."""

    context: str
    """The folder for ``COPY modelcache/ /``."""
    snapshots: tuple[RestoreReport, ...]
    removed: tuple[str, ...]
    """Files of models that are not wanted any more, relative to `context`."""


class ContextFolder:
    """The folder ``modelcache/`` in *context*, a build context, and the note about it in *state*."""

    def __init__(self, context: Path, *, state: Path) -> None:
        self.root = context.absolute() / CONTEXT
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()
        self._note = state / "contexts" / f"{name}.json"

    def check(self) -> None:
        """Raise `ConfigError` when something that nobody could put files into is in the place of this folder."""
        with explaining_denial(self.root):
            if self.root.is_symlink() or (self.root.exists() and not self.root.is_dir()):
                what = "a link" if self.root.is_symlink() else "a file"
                msg = f"{self.root} is {what}, and the models for the image go into a folder of that name"
                raise ConfigError(msg, hint="move it away")

    def paths(self) -> tuple[str, ...]:
        """The paths of all files and links in the context, sorted."""
        return tuple(f"{CONTEXT}/{path}" for path in self._marks())

    def settle(self, wanted: Collection[Path], *, mtime: int) -> tuple[str, ...]:
        """
        Leave only what is *wanted*: remove what we put here earlier, give the folders *mtime*, and note what is here.

        Returns what was removed. What is here, not wanted and not ours, or not any more as we left it, raises `ConfigError`, and
        nothing is removed.
        """
        with explaining_denial(self.root):
            found, known = self._marks(), self._known()
            keep = {path.relative_to(self.root).as_posix() for path in wanted}
            others = [path for path in found if path not in keep]
            strange = [path for path in others if known.get(path) != found[path] and _STAGING not in path.split("/")]
            if strange:
                more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
                msg = f"{self.root / strange[0]}{more} would go into the image, and was not put there by ci-modelcache, or has been changed since"
                raise ConfigError(
                    msg, hint=f"move it out of {CONTEXT}/; other files have their place in the context itself"
                )
            for path in others:
                (self.root / path).unlink()
            self._tidy(mtime)
            self._remember({path: mark for path, mark in found.items() if path in keep})
        return tuple(path for path in others if path in known)

    def _tidy(self, mtime: int) -> None:
        """Remove empty folders; the others get mode and time of folders in an image."""
        for name, _, _ in os.walk(self.root, topdown=False):
            folder = Path(name)
            with suppress(OSError):  # not empty
                folder.rmdir()
                continue
            folder.chmod(FOLDER_MODE)
            os.utime(folder, (mtime, mtime))

    def _marks(self) -> dict[str, _Mark]:
        return dict(sorted(self._walk()))

    def _walk(self) -> Iterator[tuple[str, _Mark]]:
        for name, folders, files in os.walk(self.root):
            here = Path(name)
            links = [one for one in folders if (here / one).is_symlink()]
            for path in (here / one for one in (*files, *links)):
                seen = path.lstat()
                goal = str(path.readlink()) if stat.S_ISLNK(seen.st_mode) else ""
                yield path.relative_to(self.root).as_posix(), [seen.st_size, seen.st_mtime_ns, seen.st_mode, goal]

    def _known(self) -> dict[str, _Mark]:
        """What the note says; nothing when it is lost: then nothing is removed."""
        try:
            noted = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            _log.debug("no note about %s: %s", self.root, error)
            return {}
        files = noted.get("files") if isinstance(noted, dict) else None
        return files if isinstance(files, dict) else {}

    def _remember(self, marks: dict[str, _Mark]) -> None:
        self._note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._note) as file:
            file.write(json.dumps({"folder": str(self.root), "files": marks}).encode())


def ignored_by_git(context: Path) -> bool:
    """Whether *context* is in no checkout of git, or some .gitignore above it names our folder."""
    for folder in (context, *context.parents):
        with suppress(OSError, UnicodeDecodeError):
            lines = (folder / ".gitignore").read_text(encoding="utf-8").splitlines()
            if any(line.strip().strip("/").removeprefix("**/") == CONTEXT for line in lines):
                return True
        if (folder / ".git").exists():
            return False
    return True
