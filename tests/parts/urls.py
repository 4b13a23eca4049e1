"""Lists of URLs: a small one that repeats, and one of what lies in a real store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ci_modelcache.cache.urls import ListedModel, ObjectUrl, UrlList, moment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.stores.s3 import S3Store

SIGNATURE = "c0ffee" * 10
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOST = "huggingface.co"
KEY = "blobs/sha256/44/13/44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
GOLDEN = UrlList(
    store="s3://models/ci",
    expires="2026-11-21T13:22:30Z",
    models=(
        ListedModel("org/name@main", HOST, COMMIT),
        ListedModel(f"dataset:org/questions@{COMMIT}", HOST, COMMIT, include=("*.json",), exclude=("old/*",)),
    ),
    objects={
        "modelcache.json": ObjectUrl(0, "http://127.0.0.1:8333/models/ci/modelcache.json"),
        KEY: ObjectUrl(
            2,
            f"https://models.s3.eu-west-1.amazonaws.com/ci/{KEY}?X-Amz-Algorithm=AWS4-HMAC-SHA256"
            f"&X-Amz-Credential=AKIDEXAMPLE%2F20261121%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date=20261121T112230Z"
            f"&X-Amz-Expires=7200&X-Amz-SignedHeaders=host&X-Amz-Signature={SIGNATURE}",
        ),
    },
)
"""What ``tests/golden/urls.json`` holds."""


def listed_in(store: S3Store, keys: Iterable[str], *, seconds: int = 600) -> UrlList:
    """The list of *keys*, which *store* holds, signed by it; of no model."""
    sizes = {key: store.stat(key).size for key in keys}
    signed = store.presign(sizes, seconds=seconds)
    objects = {key: ObjectUrl(size, signed.urls[key]) for key, size in sizes.items()}
    return UrlList(store.url, moment(signed.ends), (), objects)


def secrets_of(text: str) -> set[str]:
    """Every value in *text* that lets its reader in: signatures and session tokens of URLs, in both spellings."""
    found = re.findall(r"(?:X-Amz-Signature|X-Amz-Security-Token|Signature)=([^&\"\s:]+)", text)
    return {each for each in found if each != "***"}
