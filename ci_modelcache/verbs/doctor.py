"""Look at everything that a restore stands on, and say what is wrong with it before a pipeline does."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ci_modelcache.errors import ModelCacheError, ObjectNotFound
from ci_modelcache.model.document import to_plain
from ci_modelcache.stores.probe import probe
from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.transfer.land import explaining_full_disk, explaining_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.verbs.step import Step


@frozen
class Check:
    """One thing looked at: *status* is ``ok``, ``warning`` or ``failed``, *hint* what to do, *exit_code* that of the failure."""

    name: str
    status: str
    detail: str
    hint: str = ""
    exit_code: int = 0


@frozen
class DoctorReport:
    """All checks, in the order in which a restore would meet them."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """That of the first failed check, or 0."""
        return next((check.exit_code for check in self.checks if check.exit_code), 0)


def doctor(
    *,
    cache: Callable[[], ModelCache],
    upstream: Callable[[], Upstream],
    folders: Iterable[Path],
    ref: ModelRef | None,
    write: bool,
    step: Step,
) -> DoctorReport:
    """
    Check this Python, the *folders* that a restore writes to, the store and the authority; raises nothing that a check can say.

    *cache* and *upstream* open what they are called for, and may raise: that is a failed check. With *write* the store's
    capability probe runs, which writes a few small objects and removes them, unless the store could not be opened or is
    none that this version writes. With *ref*
    the authority is asked for it, which proves network, proxy, certificates and token at once.
    """
    checks = [
        Check("python", "ok", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}"),
        *(_attempt(f"folder {folder}", partial(_folder, folder)) for folder in dict.fromkeys([*folders, step.state])),
        _attempt("store", lambda: _marker(cache())),
    ]
    if write and checks[-1].status == "ok":
        checks.append(_attempt("store writes", lambda: _probe(cache())))
    if ref is not None:
        checks.append(_attempt("upstream", lambda: _upstream(upstream(), ref)))
    return DoctorReport(tuple(checks))


def _attempt(name: str, look: Callable[[], Check]) -> Check:
    try:
        return evolve(look(), name=name)
    except ModelCacheError as error:
        return Check(name, "failed", error.message, error.hint or "", error.exit_code)
    except OSError as error:
        return Check(name, "failed", str(error), "check the disk that it is on", 1)


def _folder(folder: Path) -> Check:
    with explaining_full_disk(folder), explaining_refusal(folder):
        return _try(folder)


def _try(folder: Path) -> Check:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".landing-"):
        free = shutil.disk_usage(folder).free
    return Check("", "ok", f"writable, {format_bytes(free)} free")


def _marker(cache: ModelCache) -> Check:
    try:
        marker = cache.marker()
    except ObjectNotFound:
        return Check("", "ok", f"{cache.url} is reachable, and empty: it is initialised by the first save")
    return Check("", "ok", f"{cache.url} is a store of format {marker.format}, id {marker.id}")


def _probe(cache: ModelCache) -> Check:
    cache.check_writable()
    capabilities = to_plain(probe(cache.store, random=cache.random))
    found = ", ".join(f"{name}: {value}" for name, value in sorted(capabilities.items()))
    weak = capabilities["create_only"] != "atomic"
    hint = (
        "it does not keep create-only writes apart: two first writers of a snapshot upload twice, nothing worse"
        if weak
        else ""
    )
    return Check("", "warning" if weak else "ok", found, hint)


def _upstream(upstream: Upstream, ref: ModelRef) -> Check:
    commit = upstream.resolve(ref).commit
    return Check("", "ok", f"{upstream.url} knows {ref} as {commit}")
