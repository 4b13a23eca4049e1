"""
The only module that knows what is in a streamed build context: the models at ``modelcache/``, the files of a folder, and last the Dockerfile.

The Dockerfile comes last so that no engine builds from a stream that was cut off: it would see a whole archive without a Dockerfile.
The first member is a short one, as the `docker` client tells an archive by the first 512 bytes.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Self

from attrs import frozen

from ci_modelcache.docker.dockerfile import CONTEXT
from ci_modelcache.docker.ignore import IGNORE
from ci_modelcache.docker.tree import Part
from ci_modelcache.errors import ConfigError
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.model.tar import Kind, Member
from ci_modelcache.verbs.export import ExportedModel
from ci_modelcache.verbs.fetch import FetchReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ci_modelcache.docker.ignore import Rules

_PERMISSIONS = 0o7777


@frozen
class StreamReport:
    """What was streamed; sizes in bytes. This is API: fields are added, never changed."""

    path: str
    """The file that was written, or `-` for stdout."""
    size: int
    """Bytes of the archive."""
    sha256: str
    """Of the archive: the same for the same models, files and modes on every run and machine."""
    files: int
    """How many files of models are in it."""
    context_files: int
    """How many others."""
    models: tuple[ExportedModel, ...]
    """The models in it, in the order asked for."""
    fetched: tuple[FetchReport, ...]
    """What the store lacked, and has now."""
    seconds: float

    @classmethod
    def of(
        cls, parts: Sequence[Part], *, size: int, models: tuple[ExportedModel, ...], fetched: tuple[FetchReport, ...]
    ) -> Self:
        """What can be said of *parts* before they are given away."""
        ours = sum(1 for part in parts if isinstance(part.content, FileEntry))
        others = sum(
            1
            for part in parts
            if part.member.kind is not Kind.FOLDER and not part.member.path.startswith(f"{CONTEXT}/")
        )
        return cls("", size, "", ours, others, models, fetched, 0.0)


def streamed(models: tuple[Part, ...], folder: Path, *, dockerfile: Path, rules: Rules, mtime: int) -> tuple[Part, ...]:
    """
    The parts of the context of *folder* with those of *models* in it, in the order of the stream; all have *mtime* and belong to root.

    A pure function of the names, modes and sizes that are there. *dockerfile* lies in *folder*, and is a part whatever *rules* say;
    ``.dockerignore`` is none, as it would be applied again. Raises `ConfigError` for what no archive can hold.
    """
    rules.require(part.member.path for part in models)
    return (*models, *_files(folder, dockerfile, rules, mtime))


def check_dockerfile(folder: Path, dockerfile: Path) -> str:
    """The path of *dockerfile* in the context of *folder*; raises `ConfigError` when it is not there, or lies elsewhere."""
    if not folder.is_dir():
        msg = f"there is no folder {folder}"
        raise ConfigError(msg, hint="name the folder with the files of the image")
    if not dockerfile.is_file():
        msg = f"there is no {dockerfile}"
        raise ConfigError(
            msg, hint="ci-modelcache dockerfile --style copy --base IMAGE prints one for the models of the lock"
        )
    inside, top = (os.path.normpath(path.absolute()) for path in (dockerfile, folder))
    if os.path.commonpath([inside, top]) != top:
        msg = f"{dockerfile} is not in {folder}, and the stream has what is there"
        raise ConfigError(msg, hint="put it there, or name a folder that holds both")
    return os.path.relpath(inside, top)


def _files(folder: Path, dockerfile: Path, rules: Rules, mtime: int) -> Iterator[Part]:
    last = check_dockerfile(folder, dockerfile)
    but = frozenset({CONTEXT, IGNORE, last, f"{last}{IGNORE}"})
    for entry in rules.walk(folder, but=but):
        path = os.path.relpath(entry.path, folder)
        yield from _part(folder / path, _encodable(path), mtime)
    yield from _part(dockerfile, last, mtime, follow=True)


def _encodable(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        msg = f"the name of a file of the context is not UTF-8: {path!r:.200}"
        raise ConfigError(msg, hint=f"rename it, or leave it out with a line in {IGNORE}") from None
    return path


def _part(path: Path, name: str, mtime: int, *, follow: bool = False) -> Iterator[Part]:
    with explaining_denial(path):
        seen = path.stat(follow_symlinks=follow)
        mode, kind = seen.st_mode & _PERMISSIONS, stat.S_IFMT(seen.st_mode)
        if kind == stat.S_IFDIR:
            yield Part(Member(name, kind=Kind.FOLDER, mode=mode, time=mtime))
        elif kind == stat.S_IFLNK:
            yield Part(
                Member(
                    name, kind=Kind.LINK, mode=_PERMISSIONS & 0o777, time=mtime, link=_encodable(str(path.readlink()))
                )
            )
        elif kind == stat.S_IFREG:
            yield Part(Member(name, seen.st_size, mode=mode, time=mtime), path.resolve() if follow else path)
        elif (
            kind != stat.S_IFSOCK
        ):  # those of programs that run here mean nothing elsewhere: every builder leaves them out
            msg = f"{path} is no file, folder or link, and cannot be a part of a build context"
            raise ConfigError(msg, hint=f"leave it out with a line in {IGNORE}")
