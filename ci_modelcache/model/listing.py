"""What a source says about the files of a commit, before any byte was seen."""

from __future__ import annotations

from attrs import Factory, field, frozen

from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.model.path import check_paths


@frozen
class ListedFile:
    """
    A file as a Hub's tree lists it.

    *git_oid* is the git blob name of what git stores: the content, or for an *lfs* file its pointer. *sha256* is that
    of the content; a Hub publishes it for LFS files only, a lock for all. It may lack: that is why this is no manifest entry. *leaves* names the
    leaf list of a large file, where a manifest has told it.
    """

    path: str
    size: int
    git_oid: str
    sha256: Digest | None
    lfs: bool = Factory(lambda self: self.sha256 is not None, takes_self=True)
    executable: bool = False
    leaves: Digest | None = None

    @property
    def etag(self) -> str:
        """The Hub's ETag, which `huggingface_hub` takes as the name of the blob in its cache."""
        return self.sha256.hex if self.lfs and self.sha256 is not None else self.git_oid

    @property
    def expected(self) -> Expected:
        """What the bytes must prove."""
        if self.sha256 is not None:
            return Expected(self.size, sha256=self.sha256)
        return Expected(self.size, git_oid=self.git_oid)


@frozen
class Listing:
    """All files of one *commit* (40 hex digits), as its authority lists them; paths are checked on construction."""

    commit: str
    files: tuple[ListedFile, ...] = field()

    @files.validator
    def _paths_are_safe(self, _attribute: object, files: tuple[ListedFile, ...]) -> None:
        check_paths(file.path for file in files)
