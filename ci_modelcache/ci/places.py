"""The only module that finds the line of modelcache.lock or modelcache.toml that a message is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci_modelcache.ci.channel import Place
from ci_modelcache.model.table import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.model.ref import ModelRef


def places(file: Path, ref: ModelRef | None, *, root: Path) -> Iterator[Place]:
    """
    Where *ref* stands in *file*, or else the first line of *file*; nothing when it is not within the checkout *root*.

    A file that cannot be read as TOML, which may be what the message says, is named by its first line.
    """
    import tomllib  # noqa: PLC0415  # for messages about models only

    try:
        inside = file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return
    try:
        text = file.read_text(encoding="utf-8")
        plain = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        yield Place(inside, 1)
        return
    yield Place(inside, next(_lines(plain, text, ref), 1))


def _lines(plain: dict[str, Any], text: str, ref: ModelRef | None) -> Iterator[int]:
    models = plain.get("models", [])
    for index, model in enumerate(models if isinstance(models, list) else ()):
        if ref is not None and isinstance(model, dict) and _is_meant(model, ref):
            yield lines_of(text)["models", str(index), "repo"]


def _is_meant(model: dict[str, Any], ref: ModelRef) -> bool:
    named = (model.get("repo"), model.get("type", "model")) == (ref.repo, str(ref.type))
    return named and ref.revision in {model.get("revision", "main"), model.get("commit")}
