"""The only module that turns what a user writes as one object of a bucket into an outlet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError
from ci_modelcache.stores.keys import is_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.stores.s3_outlet import ObjectOutlet


def object_outlet(
    url: str, *, open_store: Callable[[str], Store], notes: Path, split: int | None = None
) -> ObjectOutlet:
    """
    The object at *url*, ``s3://bucket/folder/name`` and what else the URL of a store may say, in objects of *split* bytes if it is given.

    *open_store* opens ``s3://bucket/folder``; *notes* is a folder for what is to outlast a kill. Raises `ConfigError` for what is no
    object of a bucket.
    """
    address, mark, query = url.partition("?")
    folder, _, key = address.rpartition("/")
    if not folder.lower().startswith("s3://") or folder.endswith("/") or not is_key(key):
        msg = f"not an object of a bucket: {address!r:.300}"
        raise ConfigError(
            msg, hint="write it as s3://bucket/folder/name.tar, with letters, digits, '.', '_' and '-' alone"
        )
    from ci_modelcache.stores.s3 import S3Store  # noqa: PLC0415  # half a second of imports that only S3 needs
    from ci_modelcache.stores.s3_outlet import ObjectOutlet  # noqa: PLC0415  # as above

    store = open_store(f"{folder}{mark}{query}")
    assert isinstance(store, S3Store)  # noqa: S101  # narrows the type: its URL begins with s3://
    return ObjectOutlet(store, key, notes=notes, split=split)
