"""
The only module that reads ``.dockerignore``: what of a build context is left out, and by which line.

The patterns are those of the SDK `docker`, an extra, imported when it is used. How they work together is the engine's rule: the last
line that matches a path, or a folder that it is in, decides.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.docker.engine import EXTRA
from ci_modelcache.errors import ConfigError
from ci_modelcache.layouts.inside import explaining_denial

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

IGNORE = ".dockerignore"
_OTHERWISE = re.compile(r"\\|\[[!^]")
"""What the SDK would read in another way than the engine does."""
_WILD = re.compile(r"[*?\[]")


@frozen
class Line:
    """A line of such a file: its *number*, what is written there, its *pattern*, and whether it takes back what others left out."""

    number: int
    text: str
    pattern: str
    negative: bool


@frozen
class Rules:
    """The *lines* of the file *name*; none of either where there is no such file. Paths are relative, with ``/``."""

    name: str = ""
    lines: tuple[Line, ...] = ()

    @classmethod
    def of(cls, folder: Path, dockerfile: Path) -> Rules:
        """Those for a context in *folder*: of ``<dockerfile>.dockerignore``, as BuildKit has it, or else of ``.dockerignore``."""
        own = dockerfile.with_name(f"{dockerfile.name}{IGNORE}")
        for path in (own, folder / IGNORE):
            with explaining_denial(path):
                if path.is_file():
                    return cls.read(path.read_bytes().decode("utf-8-sig", "surrogateescape"), name=path.name)
        return cls()

    @classmethod
    def read(cls, text: str, *, name: str = IGNORE) -> Rules:
        """The rules that *text* consists of; raises `ConfigError` for a line that the SDK would read otherwise than the engine."""
        lines = []
        for number, written in enumerate(text.split("\n"), start=1):
            stripped = written.strip()
            if not stripped or written.startswith("#"):
                continue
            if _OTHERWISE.search(stripped):
                msg = f"{name}:{number}: {stripped:.200} has a backslash, [! or [^, and is not understood here"
                raise ConfigError(msg, hint="write the names out, or use * and ?")
            negative = stripped.startswith("!")
            pattern = _cleaned(stripped[1:] if negative else stripped)
            if pattern:
                lines.append(Line(number, stripped, pattern, negative))
        return cls(name, tuple(lines))

    def left_out_by(self, path: str) -> Line | None:
        """The line that leaves *path* out, or None when it stays in."""
        parts = path.split("/")
        prefixes = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        found = None
        for line in self.lines:
            if any(_matches(line, prefix) for prefix in prefixes):
                found = line
        return None if found is None or found.negative else found

    def require(self, paths: Iterable[str]) -> None:
        """Raise `ConfigError`, naming the line and the remedy, when one of *paths* would be left out."""
        for path in paths:
            line = self.left_out_by(path)
            if line is not None:
                top = path.partition("/")[0]
                msg = f"{self.name}:{line.number}: {line.text:.200} leaves {path} out of the context"
                raise ConfigError(msg, hint=f"add a line !{top}/ below it")

    def walk(self, folder: Path, *, but: frozenset[str] = frozenset()) -> Iterator[os.DirEntry[str]]:
        """What of *folder* stays in, parents before what is in them; nothing of the paths *but*. A folder stays for what is in it."""
        for _, entry in self._walk(folder, "", tuple(False for _ in self.lines), but):
            yield entry

    def _walk(
        self, folder: Path, at: str, above: tuple[bool, ...], but: frozenset[str]
    ) -> Iterator[tuple[bool, os.DirEntry[str]]]:
        """Each entry below *folder*, whose path is *at*, that may stay; *above*: which lines match the folder or one that it is in."""
        with explaining_denial(folder), os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        for entry in entries:
            path = f"{at}{entry.name}"
            if path in but:
                continue
            matched = tuple(before or _matches(line, path) for before, line in zip(above, self.lines, strict=True))
            stays = not self._left_out(matched)
            if not entry.is_dir(follow_symlinks=False):
                if stays:
                    yield True, entry
                continue
            inner = self._walk(folder / entry.name, f"{path}/", matched, but) if stays or self._may_return(path) else ()
            first = next(iter(inner := iter(inner)), None)
            if stays or first is not None:
                yield True, entry
            if first is not None:
                yield first
            yield from inner

    def _left_out(self, matched: tuple[bool, ...]) -> bool:
        left_out = False
        for match, line in zip(matched, self.lines, strict=True):
            if match:
                left_out = not line.negative
        return left_out

    def _may_return(self, path: str) -> bool:
        """Whether a line may take back something in the folder *path*, which is left out."""
        return any(
            line.negative and (f"{line.pattern}/".startswith(f"{path}/") or _WILD.search(line.pattern))
            for line in self.lines
        )


def _cleaned(pattern: str) -> str:
    """*pattern* without slashes at its ends, ``.`` and ``..``."""
    try:
        from docker.utils.build import Pattern  # noqa: PLC0415  # an extra
    except ImportError as error:
        msg = f"reading {IGNORE} needs the package docker, which is not installed"
        raise ConfigError(msg, hint=f"pip install '{EXTRA}'") from error
    cleaned: str = Pattern(pattern).cleaned_pattern
    return cleaned


def _matches(line: Line, path: str) -> bool:
    # Not by `Pattern.match`, which takes small and capital letters for the same.
    from docker.utils.fnmatch import fnmatchcase  # noqa: PLC0415  # an extra

    return bool(fnmatchcase(path, line.pattern))
