"""
AI model snapshots, content-addressed in object storage, restored and verified.

The names in `__all__` are what other programs may build on; each is imported when it is first used, so that
``ci-modelcache --help`` does not pay for botocore. Every failure is a class of `ci_modelcache.errors`.
"""

import sys as _sys
from typing import TYPE_CHECKING

if _sys.platform == "win32":
    # File locks, modes and atomic replacement of open files are POSIX here; without this the first one fails obscurely.
    _msg = "ci-modelcache runs on Linux and macOS; on Windows run it inside WSL or a container"
    raise ImportError(_msg)

from ci_modelcache import errors

if TYPE_CHECKING:
    from ci_modelcache.cache.blobsource import StoreSource
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.layouts.hub_cache import HubCacheLayout
    from ci_modelcache.layouts.plain import PlainLayout
    from ci_modelcache.model.ref import ModelRef, RepoType
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.sources.files import HttpFolder
    from ci_modelcache.sources.http import HttpSession
    from ci_modelcache.sources.hub import HubEndpoint
    from ci_modelcache.sources.mirrors import Mirrors
    from ci_modelcache.sources.modelscope import ModelScope
    from ci_modelcache.sources.router import Router, Source
    from ci_modelcache.sources.token import Token
    from ci_modelcache.stores.locations import open_store
    from ci_modelcache.transfer.deadline import Deadline
    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.verbs.fetch import FetchReport, fetch
    from ci_modelcache.verbs.restore import RestoreReport, restore
    from ci_modelcache.verbs.save import SaveReport, save
    from ci_modelcache.verbs.step import Step
    from ci_modelcache.verbs.verify import VerifyReport, verify
    from ci_modelcache.verbs.wanted import RestoreOptions

__all__ = (  # noqa: RUF022  # in the order in which they are needed
    "errors",
    # what is meant
    "ModelRef",
    "RepoType",
    "Selection",
    # where it is kept, where it comes from, where it goes
    "ModelCache",
    "open_store",
    "HubEndpoint",
    "HttpSession",
    "Token",
    "Mirrors",
    "Router",
    "Source",
    "HttpFolder",
    "ModelScope",
    "StoreSource",
    "PlainLayout",
    "HubCacheLayout",
    # how patiently
    "Step",
    "RetryPolicy",
    "Deadline",
    # what is done, and what it tells
    "restore",
    "RestoreOptions",
    "RestoreReport",
    "fetch",
    "FetchReport",
    "save",
    "SaveReport",
    "verify",
    "VerifyReport",
)

__version__ = "0.1.0"
"""That of pyproject.toml; what pip has noted is slower to read than all that ``--version`` does besides."""

_HOMES = {
    "Deadline": "transfer.deadline",
    "FetchReport": "verbs.fetch",
    "HttpFolder": "sources.files",
    "HttpSession": "sources.http",
    "HubCacheLayout": "layouts.hub_cache",
    "HubEndpoint": "sources.hub",
    "Mirrors": "sources.mirrors",
    "ModelCache": "cache.modelcache",
    "ModelRef": "model.ref",
    "ModelScope": "sources.modelscope",
    "PlainLayout": "layouts.plain",
    "RepoType": "model.ref",
    "RestoreOptions": "verbs.wanted",
    "RestoreReport": "verbs.restore",
    "RetryPolicy": "transfer.retry",
    "Router": "sources.router",
    "SaveReport": "verbs.save",
    "Selection": "model.selection",
    "Source": "sources.router",
    "Step": "verbs.step",
    "StoreSource": "cache.blobsource",
    "Token": "sources.token",
    "VerifyReport": "verbs.verify",
    "fetch": "verbs.fetch",
    "open_store": "stores.locations",
    "restore": "verbs.restore",
    "save": "verbs.save",
    "verify": "verbs.verify",
}
"""Where each of them is defined, below this package; `errors` is here, for it imports nothing."""


if not TYPE_CHECKING:  # a type checker is to see that a name does not exist

    def __getattr__(name: str) -> object:
        import importlib  # noqa: PLC0415  # `--help` needs none of this

        if name not in _HOMES:
            msg = f"module 'ci_modelcache' has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(importlib.import_module(f"ci_modelcache.{_HOMES[name]}"), name)
        globals()[name] = value  # so that this is asked once
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
