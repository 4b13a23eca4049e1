"""
The only module that knows the label by which an image says which models are in it, and where.

``io.ci-modelcache.models`` holds a JSON list, one object a model; docs/docker-images.md describes its fields. The label is
what somebody says about an image: `docker.image_verify` proves the files, and believes no label.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import ManifestInvalid
from ci_modelcache.model.digest import Digest, is_git_oid
from ci_modelcache.model.document import from_json, to_json
from ci_modelcache.model.ref import ModelRef, RepoType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.model.lock import LockedModel
    from ci_modelcache.model.manifest import Manifest

LABEL = "io.ci-modelcache.models"
MAX_LABEL = 120_000
"""Bytes of the longest label: it must fit into one argument of a command, of which Linux takes 131,071 bytes."""
MAX_PATH = 1024
"""Bytes of the longest path in an image."""

_SELECTION = re.compile(r"all|[0-9a-f]{16}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MAX_REVISION = 255
_WHERE = f"the label {LABEL}"


class ImageLayout(StrEnum):
    """How the files of a model lie in an image."""

    PLAIN = "plain"
    """A folder of its own, each file at its own path."""
    HUB = "hub"
    """As `huggingface_hub` keeps them in ``HF_HUB_CACHE``: links into a folder of blobs."""


def snapshot_folder(repo: str, type: RepoType, commit: str, *, root: str, layout: ImageLayout) -> str:
    """The path in an image that a program opens, when models lie below its folder *root*."""
    below = repo
    if layout is ImageLayout.HUB:
        below = f"{'--'.join((f'{type.value}s', *repo.split('/')))}/snapshots/{commit}"
    return f"{root.rstrip('/')}/{below}"


@frozen
class ImageModel:
    """One model of an image. What breaks a rule raises `ManifestInvalid` or `InvalidRef`."""

    repo: str
    type: RepoType
    revision: str = field()
    """The branch, tag, commit or range that was asked for."""
    commit: str = field()
    selection: str = field()
    manifest: Digest
    digest: Digest
    path: str = field()
    """The folder of the image that a program opens: in a Hub cache `.../snapshots/<commit>`."""
    layout: ImageLayout
    """`plain`, or `hub` for a Hub cache."""

    @revision.validator
    def _check_revision(self, _attribute: object, value: str) -> None:
        # No more than this: a range such as ^1.2 is none of git's names.
        if not value or _CONTROL.search(value) or len(value.encode()) > _MAX_REVISION:
            msg = f"not a revision: {value!r:.300}"
            raise ManifestInvalid(msg)

    @commit.validator
    def _check_commit(self, _attribute: object, value: str) -> None:
        if not is_git_oid(value):
            msg = f"commit is no git object name: {value!r:.100}"
            raise ManifestInvalid(msg)

    @selection.validator
    def _check_selection(self, _attribute: object, value: str) -> None:
        if _SELECTION.fullmatch(value) is None:
            msg = f"selection is malformed: {value!r:.100}"
            raise ManifestInvalid(msg)

    @path.validator
    def _check_path(self, _attribute: object, value: str) -> None:
        segments = value.split("/")
        good = segments[0] == "" and len(segments) > 1 and not {"", ".", ".."} & set(segments[1:])
        if not good or _CONTROL.search(value) or len(value.encode()) > MAX_PATH:
            msg = f"not a folder of an image: {value!r:.300}"
            raise ManifestInvalid(msg, hint="write it absolute and without . or .., such as /models/org/name")

    def __attrs_post_init__(self) -> None:
        ModelRef(self.repo, self.commit, self.type)
        inside = snapshot_folder(self.repo, self.type, self.commit, root="", layout=self.layout)
        if self.layout is ImageLayout.HUB and not self.path.endswith(inside):
            msg = f"in a Hub cache {self.repo} lies at ...{inside}, not at {self.path!r:.300}"
            raise ManifestInvalid(msg)

    @property
    def root(self) -> str:
        """The folder that holds every file and link of the model: *path* itself, or the repository's folder in a Hub cache."""
        return self.path if self.layout is ImageLayout.PLAIN else self.path.rsplit("/", 2)[0]

    @property
    def ref(self) -> str:
        """The model as a user names it."""
        kind = "" if self.type is RepoType.MODEL else f"{self.type}:"
        return f"{kind}{self.repo}@{self.revision}"

    @classmethod
    def of(cls, manifest: Manifest, *, revision: str, root: str, layout: ImageLayout = ImageLayout.PLAIN) -> ImageModel:
        """What the label says of the model of *manifest*, asked for as *revision*, when the models of an image lie below its folder *root*."""
        return cls(
            repo=manifest.repo,
            type=manifest.type,
            revision=revision,
            commit=manifest.commit,
            selection=manifest.selection,
            manifest=manifest.digest,
            digest=manifest.set_digest,
            path=snapshot_folder(manifest.repo, manifest.type, manifest.commit, root=root, layout=layout),
            layout=layout,
        )

    @classmethod
    def of_locked(cls, model: LockedModel, *, root: str, layout: ImageLayout = ImageLayout.PLAIN) -> ImageModel:
        """The same of a *model* of a lock."""
        return cls.of(model.to_manifest(), revision=model.revision, root=root, layout=layout)


def label_of(models: Iterable[ImageModel]) -> str:
    """
    The label's text: canonical JSON, ordered by path, so that the same models always make the same image.

    Raises `ManifestInvalid` for a text longer than `MAX_LABEL`, and for two models in one folder.
    """
    ordered = sorted(models, key=lambda model: (model.path, model.ref, model.selection))
    _refuse_shared_folders(ordered)
    text = to_json(ordered)
    if len(text) > MAX_LABEL:
        msg = f"{_WHERE} of {len(ordered)} models has {len(text)} bytes, at most {MAX_LABEL} are read"
        raise ManifestInvalid(msg, hint="put the models into several images")
    return text.decode()


def models_in(label: str) -> tuple[ImageModel, ...]:
    """The models that the text of a label names, in its order; raises `ManifestInvalid` for one that breaks the format."""
    data = label.encode(errors="surrogatepass")
    if len(data) > MAX_LABEL:
        msg = f"{_WHERE} has {len(data)} bytes, at most {MAX_LABEL} are read"
        raise ManifestInvalid(msg)
    models = from_json(data, tuple[ImageModel, ...], _WHERE)
    _refuse_shared_folders(models)
    return models


def _refuse_shared_folders(models: Iterable[ImageModel]) -> None:
    """Several selections of one commit may share the folder of a Hub cache; a plain folder is of one model alone."""
    seen: dict[tuple[str, str], ImageModel] = {}
    for model in models:
        shared = model.selection if model.layout is ImageLayout.HUB else ""
        other = seen.setdefault((model.path, shared), model)
        if other is not model:
            msg = f"{_WHERE} has two models at {model.path}: {other.ref} and {model.ref}"
            raise ManifestInvalid(msg, hint="give each a folder of its own")
