"""
The only module that knows what is in an OCI archive (docs/export.md): an image layout, whose images are models as ModelPack has them.

An image is a pure function of a manifest, and the index one of all manifests and the revisions asked for: who reads
them makes them again, and compares. So nothing is believed that the manifests do not say, and each has one spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ci_modelcache.errors import InvalidRef, ManifestInvalid, SnapshotConflict
from ci_modelcache.model.archive import Entry, of_document, since_of
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.document import from_json, to_json
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId
from ci_modelcache.model.tar import Member

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.model.archive import Packed

LAYOUT, INDEX, BLOBS = "oci-layout", "index.json", "blobs/sha256/"
"""The first member, the second one, and what stands before the 64 hex digits that name any other one."""
LAYOUT_DOCUMENT = b'{"imageLayoutVersion":"1.0.0"}'
"""All that `LAYOUT` ever holds."""

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_IMAGE_TYPE = "application/vnd.oci.image.manifest.v1+json"
_ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_FILE_TYPE = "application/vnd.cncf.model.{}.v1.raw"
_MANIFEST_TYPE = "application/vnd.ci-modelcache.manifest.v1+json"
_LEAVES_TYPE = "application/vnd.ci-modelcache.leaves.v1"

_FILE_PATH = "org.cncf.model.filepath"
_NAME = "org.opencontainers.image.ref.name"
"""By which skopeo and oras find one image of several: the digest of its manifest, as reports and locks tell it."""
_REF, _REVISIONS, _SINCE = (f"io.ci-modelcache.{what}" for what in ("ref", "revisions", "since"))
_OCI_SCHEMA = 2
_LEAF_LINE = 65

_KINDS = {
    "weight.config": ("cfg", "conf", "ini", "jinja", "json", "model", "toml", "txt", "vocab", "xml", "yaml", "yml"),
    "doc": ("gif", "jpeg", "jpg", "md", "pdf", "png", "rst", "svg", "webp"),
    "code": ("c", "cpp", "cu", "h", "hpp", "ipynb", "js", "py", "rs", "sh", "ts"),
}
_KIND_OF = {suffix: kind for kind, suffixes in _KINDS.items() for suffix in suffixes}
_DOCUMENTS = ("authors", "citation", "copying", "license", "licence", "notice", "readme")


@frozen
class Indexed:
    """A snapshot as the index names it: *manifest* and *image* are digests, *size* is that of the image's document in bytes."""

    id: SnapshotId
    manifest: Digest
    image: Digest
    size: int
    revisions: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """``<host>/<type>/<repo>@<commit>/<selection>``."""
        return _ref(self.id)


@frozen
class Index:
    """All *snapshots* of an archive, ordered by the bytes of their refs; *since* is what `since_of` says of the blobs left out, if any are."""

    snapshots: tuple[Indexed, ...]
    since: Digest | None = None

    def to_json(self) -> bytes:
        """The canonical bytes of the member `INDEX`."""
        document: dict[str, Any] = {
            "schemaVersion": _OCI_SCHEMA,
            "mediaType": _INDEX_TYPE,
            "manifests": [_indexed(each) for each in self.snapshots],
        }
        if self.since is not None:
            document["annotations"] = {_SINCE: self.since.hex}
        return to_json(document)


@frozen
class Image:
    """What an image's document names: digests, and sizes in bytes."""

    data: bytes
    config: Digest
    manifest: Digest
    sizes: Mapping[Digest, int]
    """Of everything that is named, the config too."""
    leaf_lists: frozenset[Digest]

    def check(self, manifest: Manifest) -> None:
        """Raise `ManifestInvalid` unless this is the image of *manifest*."""
        expected, _ = image_and_config(manifest)
        _require_same(expected, self.data, f"the image of {manifest.id}")


def oci_archive(
    packed: Iterable[Packed], leaf_lists: Mapping[Digest, bytes], *, without: frozenset[Digest] = frozenset()
) -> tuple[Entry, ...]:
    """
    The members of the archive of *packed*, in their order: the layout, the index, then all blobs by their digests.

    A pure function of what these are, in any order. *leaf_lists* has each that a manifest names. The files whose digests are in
    *without* are left out.
    """
    documents: dict[Digest, bytes] = {}
    files: dict[Digest, FileEntry] = {}
    snapshots = []
    for manifest, revisions in _merged(packed):
        image, config = image_and_config(manifest)
        snapshots.append(Indexed(manifest.id, manifest.digest, Digest.of(image), len(image), revisions))
        documents |= {Digest.of(document): document for document in (image, config, manifest.to_json())}
        for file in manifest.files:
            _agree(files.setdefault(file.sha256, file), file)
            if file.leaves is not None:
                documents[file.leaves] = _fitting(leaf_lists[file.leaves], file)
    left_out = (files.keys() & without) - documents.keys()
    index = Index(tuple(snapshots), since_of(left_out) if left_out else None)
    blobs: dict[Digest, bytes | FileEntry] = {**files, **documents}
    return (
        of_document(LAYOUT, LAYOUT_DOCUMENT),
        of_document(INDEX, index.to_json()),
        *(_blob(digest, blobs[digest]) for digest in sorted(blobs.keys() - left_out)),
    )


def leaf_list_size(file: FileEntry) -> int:
    """Bytes of the leaf list of *file*, which is larger than a leaf."""
    return _LEAF_LINE * -(-file.size // LEAF_SIZE)


def image_and_config(manifest: Manifest) -> tuple[bytes, bytes]:
    """
    The image of *manifest*, and the config that it names: ModelPack's own description, of what is known, and that is little.

    Layers are the manifest, the files in its order, then their leaf lists; each is nothing but the blob.
    """
    layers = _layers(manifest)
    config = to_json(
        {
            "descriptor": {"name": manifest.repo, "revision": manifest.commit},
            "config": {},
            "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
        }
    )
    image = to_json(
        {
            "schemaVersion": _OCI_SCHEMA,
            "mediaType": _IMAGE_TYPE,
            "artifactType": _ARTIFACT_TYPE,
            "config": _descriptor(_CONFIG_TYPE, Digest.of(config), len(config)),
            "layers": layers,
        }
    )
    return image, config


def read_index(data: bytes) -> Index:
    """What the member `INDEX` says; raises `ManifestInvalid` for one that `oci_archive` would not have made."""
    document = from_json(data, _IndexDocument, INDEX)
    index = Index(tuple(map(_read_indexed, document.manifests)), _read_since(document.annotations))
    if any(one.ref.encode() >= other.ref.encode() for one, other in pairwise(index.snapshots)) or not index.snapshots:
        msg = f"{INDEX} names no snapshot, one of them twice, or not in their order"
        raise ManifestInvalid(msg)
    _require_same(index.to_json(), data, INDEX)
    return index


def read_image(data: bytes, indexed: Indexed) -> Image:
    """What the image *indexed*, whose digest was checked already, names; `Image.check` says later whether that is all right."""
    what = f"the image of {indexed.ref}"
    document = from_json(data, _ImageDocument, what)
    named = (document.config, *document.layers)
    digests = [_read_digest(each.digest, what) for each in named]
    if not document.layers or (digests[1], document.layers[0].mediaType) != (indexed.manifest, _MANIFEST_TYPE):
        msg = f"{what} does not begin with the manifest that {INDEX} names: {indexed.manifest}"
        raise ManifestInvalid(msg)
    sizes: dict[Digest, int] = {}
    for digest, each in zip(digests, named, strict=True):
        if each.size < 0 or sizes.setdefault(digest, each.size) != each.size:
            msg = f"{what} gives {digest} an impossible size, or two: {each.size}"
            raise ManifestInvalid(msg)
    leaf_lists = (digest for digest, each in zip(digests, named, strict=True) if each.mediaType == _LEAVES_TYPE)
    return Image(data, digests[0], digests[1], sizes, frozenset(leaf_lists))


@frozen
class _Descriptor:
    """As OCI has it; so have the next ones their names."""

    mediaType: str  # noqa: N815  # OCI's own name
    digest: str
    size: int
    artifactType: str = ""  # noqa: N815  # as above
    annotations: dict[str, str] = field(factory=dict)


@frozen
class _IndexDocument:
    schemaVersion: int  # noqa: N815  # as above
    mediaType: str  # noqa: N815  # as above
    manifests: tuple[_Descriptor, ...]
    annotations: dict[str, str] = field(factory=dict)


@frozen
class _ImageDocument:
    schemaVersion: int  # noqa: N815  # as above
    mediaType: str  # noqa: N815  # as above
    artifactType: str  # noqa: N815  # as above
    config: _Descriptor
    layers: tuple[_Descriptor, ...]


def _merged(packed: Iterable[Packed]) -> list[tuple[Manifest, tuple[str, ...]]]:
    """Each manifest once, with all its revisions, by the bytes of the refs."""
    manifests: dict[SnapshotId, Manifest] = {}
    revisions: dict[SnapshotId, set[str]] = {}
    for each in packed:
        one, commit = each.manifest.id, each.manifest.commit
        if manifests.setdefault(one, each.manifest) != each.manifest:
            msg = f"two manifests of {one}: {manifests[one].digest} and {each.manifest.digest}"
            raise SnapshotConflict(msg, hint="ci-modelcache verify finds out which of them is wrong")
        revisions.setdefault(one, set()).update(each.revisions - {commit})
    return [
        (manifests[one], tuple(sorted(revisions[one]))) for one in sorted(manifests, key=lambda one: _ref(one).encode())
    ]


def _agree(one: FileEntry, other: FileEntry) -> None:
    if (one.size, one.leaves) != (other.size, other.leaves):
        msg = (
            f"two manifests disagree about {one.sha256}: {one.path} has {one.size} bytes, {other.path} has {other.size}"
        )
        raise SnapshotConflict(msg, hint="ci-modelcache verify finds out which of them is wrong")


def _ref(one: SnapshotId) -> str:
    return f"{one.host}/{one.type.value}/{one.repo}@{one.commit}/{one.selection}"


def _blob(digest: Digest, content: bytes | FileEntry) -> Entry:
    path = f"{BLOBS}{digest}"
    return of_document(path, content) if isinstance(content, bytes) else Entry(Member(path, content.size), content)


def _fitting(leaf_list: bytes, file: FileEntry) -> bytes:
    if len(leaf_list) != leaf_list_size(file):
        msg = f"{file.path}: its leaf list has {len(leaf_list)} bytes, and its size makes {leaf_list_size(file)}"
        raise ManifestInvalid(msg)
    return leaf_list


def _layers(manifest: Manifest) -> list[dict[str, Any]]:
    leaf_lists = {file.leaves: file for file in manifest.files if file.leaves is not None}
    return [
        _descriptor(_MANIFEST_TYPE, manifest.digest, len(manifest.to_json())),
        *(
            _descriptor(_type_of(file, manifest.type), file.sha256, file.size)
            | {"annotations": {_FILE_PATH: file.path}}
            for file in manifest.files
        ),
        *(_descriptor(_LEAVES_TYPE, name, leaf_list_size(file)) for name, file in leaf_lists.items()),
    ]


def _type_of(file: FileEntry, kind: RepoType) -> str:
    """What ModelPack calls such a file; advice for others, and nothing here depends on it."""
    name = file.path.rpartition("/")[2].lower()
    found = _KIND_OF.get(name.rpartition(".")[2])
    if name.startswith(_DOCUMENTS):
        found = "doc"
    return _FILE_TYPE.format(found or ("dataset" if kind is RepoType.DATASET else "weight"))


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _indexed(each: Indexed) -> dict[str, Any]:
    annotations = {_REF: each.ref, _NAME: each.manifest.hex}
    if each.revisions:
        annotations[_REVISIONS] = " ".join(each.revisions)
    own = {"artifactType": _ARTIFACT_TYPE, "annotations": annotations}
    return _descriptor(_IMAGE_TYPE, each.image, each.size) | own


def _read_indexed(found: _Descriptor) -> Indexed:
    ref = found.annotations.get(_REF, "")
    revisions = tuple(filter(None, found.annotations.get(_REVISIONS, "").split(" ")))
    try:
        one = _read_ref(ref)
        for revision in revisions:
            ModelRef(one.repo, revision, one.type)
    except InvalidRef as error:
        msg = f"{INDEX}: {error.message}"
        raise ManifestInvalid(msg) from error
    if sorted({*revisions} - {one.commit}) != list(revisions) or found.size < 0:
        msg = f"{INDEX} gives {ref!r:.300} revisions that are not in their order, one of them twice, its commit, or an impossible size"
        raise ManifestInvalid(msg)
    manifest, image = Digest(found.annotations.get(_NAME, "")), _read_digest(found.digest, INDEX)
    return Indexed(one, manifest, image, found.size, revisions)


def _read_ref(text: str) -> SnapshotId:
    host, _, rest = text.partition("/")
    kind, _, rest = rest.partition("/")
    repo, _, rest = rest.partition("@")
    commit, _, selection = rest.partition("/")
    if kind not in list(RepoType):
        msg = f"{INDEX}: no type of a repository in {text!r:.300}"
        raise ManifestInvalid(msg)
    # A manifest checks its parts, and this is one without files.
    return Manifest(host, RepoType(kind), repo, commit, selection, ()).id


def _read_since(annotations: Mapping[str, str]) -> Digest | None:
    return Digest(annotations[_SINCE]) if _SINCE in annotations else None


def _read_digest(text: str, what: str) -> Digest:
    algorithm, _, hexadecimal = text.partition(":")
    if algorithm != "sha256":
        msg = f"{what}: not a SHA-256: {text!r:.100}"
        raise ManifestInvalid(msg)
    return Digest(hexadecimal)


def _require_same(made: bytes, found: bytes, what: str) -> None:
    if made != found:
        msg = f"{what} is not as it is written: sha256 {Digest.of(found)}, expected {Digest.of(made)}"
        raise ManifestInvalid(msg, hint="export again")
