"""The only module that puts what is known about images into words for people; each function yields lines for stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.reports import columns, count, some
from ci_modelcache.docker.image_verify import ABSENT, OTHER
from ci_modelcache.docker.labels import LABEL, ImageLayout
from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.docker.image_inspect import ImageReport, ImagesReport
    from ci_modelcache.docker.image_verify import ImageVerifyReport, VerifiedModel

_SHORT = 12
"""Digits of a commit or digest that people are shown."""
_HEAD = ("MODEL", "COMMIT", "DIGEST", "PATH", "LAYOUT")
_LAYOUTS = {ImageLayout.PLAIN: "plain", ImageLayout.HUB: "Hub cache"}


def inspected(report: ImagesReport) -> Iterator[str]:
    """Every image, and below it the models that its label names."""
    for number, image in enumerate(report.images):
        if number:
            yield ""
        yield from _inspected(image)


def _inspected(image: ImageReport) -> Iterator[str]:
    size = f"{format_bytes(image.size)} in {count(len(image.layers), 'layer')}"
    yield f"{image.image}: {image.id.removeprefix('sha256:')[:_SHORT]}, {image.platform}, {size}"
    if image.problem:
        yield f"BROKEN: {image.problem}"
    elif image.models:
        rows = [
            (
                f"{one.ref} (part {one.selection})" if one.selection != "all" else one.ref,
                one.commit[:_SHORT],
                one.digest.hex[:_SHORT],
                one.path,
                _LAYOUTS[one.layout],
            )
            for one in image.models
        ]
        yield from columns([_HEAD, *rows])
    else:
        yield f"no label {LABEL}, so it does not say which models it has; ci-modelcache docker build writes one"


def verified_image(report: ImageVerifyReport) -> Iterator[str]:
    """What `docker verify` found, file by file."""
    for model in report.models:
        yield from _verified(model)
    bad = sum(model.result != "ok" for model in report.models)
    by = "the lock" if report.anchor == "lock" else "the manifests that its label names"
    found = f"{count(bad, 'model')} not as promised by {by}" if bad else f"all as promised by {by}"
    read = f"{count(len(report.models), 'model')}, {format_bytes(report.bytes_read)} read in {report.seconds:.1f} s"
    yield f"{report.image}: {read}: {found}"


def _verified(model: VerifiedModel) -> Iterator[str]:
    what = f"{count(model.files, 'file')}, {format_bytes(model.size)}, commit {model.commit[:_SHORT]}"
    if model.result == ABSENT:
        yield f"absent: {model.ref}: the image has no file of it, neither in {model.path} nor elsewhere"
        return
    yield f"{model.result}: {model.ref}: {model.path}: {what}"
    for path in model.missing:
        yield f"  missing: {path}"
    for file in model.wrong:
        got = f"got {file.actual}" if file.actual else "got no file"
        yield f"  wrong: {file.path}: {file.why}: expected sha256 {file.expected}, {got}"
    if model.extra:
        yield f"  {count(len(model.extra), 'file')} there that the model does not have: {some(model.extra)}"
    if model.label == OTHER:
        yield "  the label of the image names another manifest for it"
