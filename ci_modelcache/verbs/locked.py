"""The only module that reads modelcache.lock, and says whether modelcache.toml still means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError, LockStale
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.ref import RepoType

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ci_modelcache.model.project import ProjectModel


def read_lock(path: Path) -> Lock:
    """The lock in the file at *path*; raises `ConfigError` when there is none and `IntegrityError` for a broken one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        msg = f"there is no {path}"
        raise ConfigError(msg, hint="write it with ci-modelcache lock, and commit it") from error
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}"
        raise ConfigError(msg) from error
    return Lock.from_toml(text, where=str(path))


def check_lock(models: Sequence[ProjectModel], lock: Lock) -> None:
    """Raise `LockStale` unless *lock* names exactly the *models*, with their revisions and patterns; asks nobody."""
    wanted = {key_of(model): name_of(model) for model in models}
    locked = {key_of(model): name_of(model) for model in lock.models}
    missing = [name for key, name in wanted.items() if key not in locked]
    surplus = [name for key, name in locked.items() if key not in wanted]
    changed = sorted(set(missing) & set(surplus))
    parts = {
        "it lacks": [name for name in missing if name not in changed],
        "it still has": [name for name in surplus if name not in changed],
        "it has other patterns for": changed,
    }
    said = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    if said:
        msg = f"modelcache.lock does not match modelcache.toml: {' and '.join(said)}"
        raise LockStale(msg, hint="run ci-modelcache lock and commit modelcache.lock")


def key_of(model: ProjectModel | LockedModel) -> tuple[str, str, str, str]:
    """By what a model of modelcache.toml is the same as one of the lock."""
    selection = model.selection if isinstance(model, LockedModel) else model.selection.id
    return model.repo, model.type.value, model.revision, selection


def name_of(model: ProjectModel | LockedModel) -> str:
    """What people call it."""
    kind = "" if model.type is RepoType.MODEL else f"{model.type}:"
    return f"{kind}{model.repo}@{model.revision}"
