"""Make the list of URLs by which somebody without credentials restores models from a store, until they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.presigned import PresignedStore
from ci_modelcache.cache.presigning import objects_of
from ci_modelcache.cache.urls import ListedModel, ObjectUrl, UrlList, moment
from ci_modelcache.errors import ConfigError, ModelCacheError
from ci_modelcache.stores.protocol import OnDisk, Presigning
from ci_modelcache.transfer.deadline import format_duration
from ci_modelcache.transfer.disk import format_bytes
from ci_modelcache.verbs.export import ExportedModel, described, explaining_miss

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.sources.direct import DirectSession
    from ci_modelcache.stores.protocol import SignedUrls
    from ci_modelcache.transfer.outlet import Outlet
    from ci_modelcache.verbs.export import Exported
    from ci_modelcache.verbs.step import Step

_LARGEST_SECRET = 500 * 1024
"""Bytes of a secret that BuildKit takes (moby/buildkit, session/secrets: MaxSecretSize)."""


@frozen
class PresignReport:
    """What `presign` made; sizes in bytes. No URL is in it. This is API: fields are added, never changed."""

    path: str
    """The file that was written, or `-` for stdout."""
    store: str
    expires: str
    """When the URLs end, as RFC 3339 has it, in UTC."""
    objects: int
    """How many objects of the store they read."""
    size: int
    """Bytes of these objects."""
    document: int
    """Bytes of the list itself."""
    models: tuple[ExportedModel, ...]
    """What can be restored with it, in the order asked for."""
    warnings: tuple[str, ...]
    seconds: float


def presign(
    models: Sequence[Exported],
    outlet: Outlet,
    *,
    seconds: int,
    cache: ModelCache,
    step: Step,
    session: DirectSession,
) -> PresignReport:
    """
    Write URLs of all that restoring *models* from *cache* reads, good for *seconds*, to *outlet*: whoever has them needs nothing else.

    Before anything is written every object is looked for (`ObjectNotFound` for a blob that the store lacks), and one URL is tried by *session*.
    Raises `ConfigError` for a store that has no URLs or no credentials to sign them with.
    """
    started = step.clock()
    signing = signing_of(cache, seconds=seconds)
    with explaining_miss(models):
        sizes = objects_of(
            (model.manifest for model in models), cache=cache, workers=step.workers, deadline=step.deadline
        )
    signed = signing.presign(sizes, seconds=seconds)
    listed = _listed(models, sizes, signed, store=cache.url)
    _try(listed, cache=cache, step=step, session=session)
    data = listed.to_json()
    with outlet.open(len(data)) as take:
        take(data)
    return PresignReport(
        path=outlet.name,
        store=cache.url,
        expires=listed.expires,
        objects=len(sizes),
        size=sum(sizes.values()),
        document=len(data),
        models=tuple(map(described, models)),
        warnings=tuple(_warnings(signed, listed, len(data), seconds)),
        seconds=step.clock() - started,
    )


def signing_of(cache: ModelCache, *, seconds: int) -> Presigning:
    """What signs URLs for *cache*; raises `ConfigError` when they cannot be had, or not for so many *seconds*, and asks the store nothing."""
    store = cache.store
    if not isinstance(store, Presigning):
        hint = "name a store in S3: --store s3://BUCKET/PREFIX"
        if isinstance(store, OnDisk):
            hint = f"{hint}; models in a folder get into a build with ci-modelcache docker context"
        msg = f"{store.url} has no URLs that could be signed"
        raise ConfigError(msg, hint=hint)
    store.presign((), seconds=seconds)
    return store


def _listed(models: Sequence[Exported], sizes: Mapping[str, int], signed: SignedUrls, *, store: str) -> UrlList:
    return UrlList(
        store=store,
        expires=moment(signed.ends),
        models=tuple(
            ListedModel(
                ref=str(model.ref),
                host=model.manifest.host,
                commit=model.manifest.commit,
                include=model.selection.include,
                exclude=model.selection.exclude,
            )
            for model in models
        ),
        objects={key: ObjectUrl(size, signed.urls[key]) for key, size in sizes.items()},
    )


def _try(listed: UrlList, *, cache: ModelCache, step: Step, session: DirectSession) -> None:
    """Read the smallest object by its URL: a wrong region or a policy against such URLs is better known now than in the build."""
    store = PresignedStore(listed, session=session, deadline=step.deadline)
    key = min(listed.objects, key=lambda each: (listed.objects[each].size == 0, listed.objects[each].size, each))

    def read() -> None:
        with store.read(key) as chunks:
            for _ in chunks:
                step.deadline.check(f"trying a URL of {cache.url}")

    try:
        cache.retry.call(read, doing=f"trying a URL of {cache.url}")
    except ModelCacheError as error:
        error.add_note("that was one of the new URLs, tried before they are given to anybody")
        raise


def _warnings(signed: SignedUrls, listed: UrlList, length: int, seconds: int) -> Iterator[str]:
    asked = format_duration(seconds)
    if signed.cut:
        yield f"the credentials that sign the URLs end at {listed.expires}, and the URLs with them: sooner than the {asked} asked for"
    if signed.unsure:
        yield f"these credentials are temporary and do not tell when they end: the URLs end with them, perhaps before {listed.expires}"
    if length > _LARGEST_SECRET:
        limit, size = format_bytes(_LARGEST_SECRET), format_bytes(length)
        yield f"the list has {size}, and BuildKit takes secrets of at most {limit}: name fewer models or files for one build"
