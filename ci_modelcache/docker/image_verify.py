"""Prove the model files of an image: read out of it without running it, and compared with a lock, or with what its label promises."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.docker.image_files import FileSeen, FolderSeen, Nothing, read_folder
from ci_modelcache.docker.labels import LABEL, ImageLayout, ImageModel, models_in, snapshot_folder
from ci_modelcache.errors import ConfigError, FileNotFound, IntegrityError, NotFound
from ci_modelcache.model.manifest import Manifest
from ci_modelcache.model.ref import RepoType
from ci_modelcache.model.selection import ALL
from ci_modelcache.transfer.parallel import bounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.docker.engine import Engine, EngineImage, ImageFiles
    from ci_modelcache.model.lock import Lock
    from ci_modelcache.model.manifest import FileEntry
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

DEFAULT_ROOT = "/models"
"""Where models lie in an image when neither its label nor its user says so."""
OK, WRONG, ABSENT = "ok", "wrong", "absent"
SAME, OTHER, NONE = "same", "other", "none"


@frozen
class Place:
    """Where a model may lie: the folder *root* holds all of it, and *inside* it, relative, are its files under their own names."""

    root: str
    inside: str
    layout: ImageLayout

    @property
    def path(self) -> str:
        """The folder that a program opens."""
        return f"{self.root}/{self.inside}" if self.inside else self.root


@frozen
class Sought:
    """A model that must be in an image: *ref* as its user knows it, and the *places* where it may lie, tried in this order."""

    ref: str
    manifest: Manifest
    places: tuple[Place, ...]
    label: str
    """What the label of the image says about it: `SAME`, `OTHER` or `NONE`."""


@frozen
class WrongFile:
    """A file whose bytes are not those that were promised."""

    path: str
    """Relative to the model."""
    expected: str
    """The SHA-256 that was promised."""
    actual: str
    """The SHA-256 of what is there, or empty when that is no file."""
    why: str
    """A sentence."""


@frozen
class VerifiedModel:
    """What became of one model."""

    ref: str
    commit: str
    selection: str
    result: str
    """`ok`, `wrong` (a file of it is missing or has other bytes), or `absent` (no file of it is there)."""
    path: str
    """The folder of the image that a program opens; where it was looked for first when it is absent."""
    layout: str
    """`plain`, or `hub` for a Hub cache."""
    label: str
    """What the image's label says: `same`, `other` (another manifest, and so other bytes), or `none` (it does not name the model)."""
    files: int
    size: int
    missing: tuple[str, ...] = ()
    """Files that are not there."""
    wrong: tuple[WrongFile, ...] = ()
    """Files with other bytes."""
    extra: tuple[str, ...] = ()
    """Files in its folder that the model does not have; they do no harm to the result."""


@frozen
class ImageVerifyReport:
    """What `docker verify` read and found. This is API: fields are added, never changed."""

    image: str
    """The image as it was asked for."""
    id: str
    """The digest by which its engine knows it."""
    anchor: str
    """By whose word these are the right bytes: `lock`, or `label` (and the store, which has the manifest that the label names)."""
    models: tuple[VerifiedModel, ...]
    """The models that must be there."""
    bytes_read: int
    """Bytes of files that were read out of the image."""
    seconds: float

    @property
    def exit_code(self) -> int:
        """0; that of `IntegrityError` when a file is wrong or missing; that of `NotFound` when whole models are absent and nothing worse."""
        results = {model.result for model in self.models}
        if WRONG in results:
            return IntegrityError.exit_code
        return NotFound.exit_code if ABSENT in results else 0


def labelled(image: EngineImage, name: str) -> tuple[ImageModel, ...]:
    """The models that the label of *image* names; raises `NotFound` when it has none, and `ManifestInvalid` for a broken one."""
    if LABEL not in image.labels:
        msg = f"{name} has no label {LABEL}"
        raise NotFound(msg, hint="build it with ci-modelcache docker build, or verify it against modelcache.lock")
    return models_in(image.labels[LABEL])


def sought_by_lock(lock: Lock, image: EngineImage, name: str, *, root: str | None) -> tuple[Sought, ...]:
    """
    The models of *lock*. They lie below *root*; for None where the label says, or below `DEFAULT_ROOT`.

    A label that says something else than the lock is told at once, and so is one that cannot be read; neither decides anything.
    Raises `ConfigError` for a lock that names no model: with it every image would be right.
    """
    if not lock.models:
        msg = "the lock names no model, so there is nothing to verify"
        raise ConfigError(msg, hint="add models to modelcache.toml and run ci-modelcache lock")
    try:
        said = labelled(image, name)
    except NotFound:
        said = ()
    except IntegrityError as error:
        said = ()
        _log.warning("%s: its label is not read: %s", name, error)
    found = []
    for model in lock.models:
        same = [one for one in said if (one.repo, one.type, one.selection) == (model.repo, model.type, model.selection)]
        kind = "" if model.type is RepoType.MODEL else f"{model.type}:"
        manifest, ref = model.to_manifest(), f"{kind}{model.repo}@{model.revision}"
        label = NONE if not same else SAME if any(one.manifest == model.manifest for one in same) else OTHER
        if label == OTHER:
            _log.warning(
                "%s: its label says that %s is commit %s, and the lock commit %s",
                name,
                ref,
                same[0].commit,
                model.commit,
            )
        roots = [_place(manifest, _above(one), one.layout, plain=one.path) for one in same] if root is None else []
        default = root or DEFAULT_ROOT
        places = [*roots, *(_place(manifest, default, layout) for layout in ImageLayout)]
        found.append(Sought(ref, manifest, tuple(dict.fromkeys(places)), label))
    return tuple(found)


def sought_by_label(image: EngineImage, name: str, *, root: str | None, cache: ModelCache) -> tuple[Sought, ...]:
    """The models that the label of *image* names, with the manifests that *cache* has; raises `NotFound` for no model, or no manifest."""
    found = []
    models = labelled(image, name)
    if not models:
        msg = f"the label of {name} names no model, so there is nothing to verify"
        raise NotFound(msg, hint="verify it against modelcache.lock")
    for one in models:
        manifest = cache.manifest_named(one.manifest)
        place = _place(manifest, root or _above(one), one.layout, plain="" if root else one.path)
        found.append(Sought(one.ref, manifest, (place,), SAME))
    return tuple(found)


def verify_image(
    image: EngineImage, name: str, sought: Sequence[Sought], *, anchor: str, engine: Engine, step: Step
) -> ImageVerifyReport:
    """
    Read the files of *sought* out of *image*, which was asked for as *name*, and report everything that is not as promised.

    No more than pieces of files are in memory, and no byte is written. Raises for an engine that fails, or a deadline that passes.
    """
    started = step.clock()
    step.progress.start(f"verifying {name}", sum(one.manifest.size for one in sought))
    try:
        with engine.files_of(image) as files:
            work = _Work(files, sought, step)
            models = bounded(work.all, deadline=step.deadline, doing=f"verifying {name}")
    finally:
        step.progress.finish()
    return ImageVerifyReport(name, image.id, anchor, models, work.bytes_read, step.clock() - started)


def _above(model: ImageModel) -> str:
    """The folder in which the models of its image lie."""
    return model.root.rpartition("/")[0]


def _place(manifest: Manifest, root: str, layout: ImageLayout, *, plain: str = "") -> Place:
    """Where the model lies below *root*; *plain*, if given, is its folder in the plain layout."""
    path = snapshot_folder(manifest.repo, manifest.type, manifest.commit, root=root, layout=layout)
    if layout is ImageLayout.PLAIN:
        return Place(plain or path, "", layout)
    above, snapshots, commit = path.rsplit("/", 2)
    return Place(above, f"{snapshots}/{commit}", layout)


class _Work:
    """The reading of one image."""

    def __init__(self, files: ImageFiles, sought: Sequence[Sought], step: Step) -> None:
        self._files = files
        self._sought = sought
        self._step = step
        self._left = sum(one.manifest.size for one in sought)
        self._folders: dict[str, FolderSeen] = {}
        self.bytes_read = 0

    def all(self) -> tuple[VerifiedModel, ...]:
        """Every model, in its order."""
        return tuple(map(self._model, self._sought))

    def _model(self, one: Sought) -> VerifiedModel:
        for place in one.places:
            compared = _compared(one.manifest.files, self._folder(place.root), place)
            if len(compared.missing) < len(one.manifest.files):
                result = WRONG if compared.missing or compared.wrong else OK
                return self._told(one, place, result, compared)
        return self._told(one, one.places[0], ABSENT, _Compared())

    def _told(self, one: Sought, place: Place, result: str, compared: _Compared) -> VerifiedModel:
        manifest = one.manifest
        return VerifiedModel(
            ref=one.ref,
            commit=manifest.commit,
            selection=manifest.selection,
            result=result,
            path=place.path,
            layout=place.layout,
            label=one.label,
            files=len(manifest.files),
            size=manifest.size,
            missing=compared.missing,
            wrong=compared.wrong,
            extra=() if result == ABSENT else self._extra(one, place),
        )

    def _extra(self, one: Sought, place: Place) -> tuple[str, ...]:
        """What lies in the model's folder besides it, and in no other model's folder that lies within."""
        if place.layout is ImageLayout.HUB and one.manifest.selection != ALL:
            return ()  # all of it may well be of the commit
        own = {file.path for file in one.manifest.files}
        others = tuple(
            f"{each.path}/".removeprefix(f"{place.path}/")
            for other in self._sought
            for each in other.places
            if each.path.startswith(f"{place.path}/")
        )
        found = self._folder(place.root).below(place.inside)
        return tuple(path for path in found if path not in own and not path.startswith(others))

    def _folder(self, root: str) -> FolderSeen:
        """All that lies in the folder *root*, read once; nothing when there is no such folder."""
        if root not in self._folders:
            try:
                with self._files.archive(root) as pieces:
                    self._folders[root] = read_folder(pieces, root, counted=self._count)
            except FileNotFound:
                self._folders[root] = FolderSeen(root)
        return self._folders[root]

    def _count(self, size: int) -> None:
        self.bytes_read += size
        # There may be more in the folder than the model.
        told = min(size, self._left)
        self._left -= told
        self._step.progress.advance(told)


@frozen
class _Compared:
    missing: tuple[str, ...] = ()
    wrong: tuple[WrongFile, ...] = field(factory=tuple)


def _compared(files: Sequence[FileEntry], folder: FolderSeen, place: Place) -> _Compared:
    missing, wrong = [], []
    for entry in files:
        seen = folder.file(f"{place.inside}/{entry.path}")
        if isinstance(seen, FileSeen):
            if seen.sha256 != entry.sha256:
                why = f"expected {entry.size} bytes, got {seen.size}" if seen.size != entry.size else "other bytes"
                wrong.append(WrongFile(entry.path, entry.sha256.hex, seen.sha256.hex, why))
        elif seen.why:
            wrong.append(WrongFile(entry.path, entry.sha256.hex, "", _sentence(seen)))
        else:
            missing.append(entry.path)
    return _Compared(tuple(missing), tuple(wrong))


def _sentence(nothing: Nothing) -> str:
    return f"expected a file, got {nothing.why}"
