"""Look at images, and change nothing: which models each says it has, and how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.docker.labels import LABEL, ImageModel, models_in
from ci_modelcache.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.docker.engine import Engine


@frozen
class ImageReport:
    """One image. What `models` says is what its label claims: `docker verify` proves it."""

    image: str
    """The image as it was asked for."""
    id: str
    """The digest by which its engine knows it."""
    tags: tuple[str, ...]
    """All names that it has there."""
    platform: str
    """Such as `linux/amd64`."""
    size: int
    """Bytes of all its layers."""
    layers: tuple[str, ...]
    """The digests of the content of its layers, first to last: the same bytes, the same digest."""
    models: tuple[ImageModel, ...]
    """The models that its label names; empty without a label."""
    problem: str
    """A sentence when its label cannot be read, else empty."""


@frozen
class ImagesReport:
    """What `docker inspect` saw."""

    images: tuple[ImageReport, ...]
    """The images, in the order asked for."""

    @property
    def exit_code(self) -> int:
        """0, also for an image without label, or that of `IntegrityError` when a label cannot be read."""
        return IntegrityError.exit_code if any(image.problem for image in self.images) else 0


def inspect_images(names: Iterable[str], *, engine: Engine) -> ImagesReport:
    """What *engine* knows about the images of these *names*; raises `ImageNotFound` for the first that it does not have."""
    return ImagesReport(tuple(_look(name, engine) for name in names))


def _look(name: str, engine: Engine) -> ImageReport:
    image = engine.image(name)
    models: tuple[ImageModel, ...] = ()
    problem = ""
    if LABEL in image.labels:
        try:
            models = models_in(image.labels[LABEL])
        except IntegrityError as error:
            problem = error.message
    return ImageReport(
        image=name,
        id=image.id,
        tags=image.tags,
        platform=image.platform,
        size=image.size,
        layers=image.layers,
        models=models,
        problem=problem,
    )
