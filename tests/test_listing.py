"""A listing is what a Hub claims before any byte was seen: a file without a SHA-256 is proven by its git name."""

from __future__ import annotations

import pytest

from ci_modelcache.errors import ManifestInvalid, UnsafePath
from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.model.listing import ListedFile, Listing

OID = "ab" * 20
SHA = Digest("cd" * 32)


def test_a_small_file_is_proven_by_its_git_name() -> None:
    file = ListedFile("config.json", 3, OID, None)
    assert not file.lfs
    assert file.expected == Expected(3, git_oid=OID)
    assert file.etag == OID


def test_an_lfs_file_is_proven_by_its_sha256_for_git_names_the_pointer_only() -> None:
    file = ListedFile("model.bin", 3, OID, SHA)
    assert file.lfs
    assert file.expected == Expected(3, sha256=SHA)
    assert file.etag == SHA.hex


def test_a_small_file_of_which_a_lock_knows_the_sha256_keeps_the_etag_of_the_hub() -> None:
    file = ListedFile("config.json", 3, OID, SHA, lfs=False)
    assert file.expected == Expected(3, sha256=SHA)
    assert file.etag == OID


def test_a_malformed_git_name_proves_nothing() -> None:
    with pytest.raises(ManifestInvalid, match="not a git object name"):
        _ = ListedFile("config.json", 3, "W/abc", None).expected


@pytest.mark.parametrize("paths", [("../x",), ("a", "A"), ("a", "a/b"), ("/etc/passwd",)])
def test_paths_that_could_harm_are_refused_before_anything_is_asked_for(paths: tuple[str, ...]) -> None:
    with pytest.raises(UnsafePath):
        Listing(OID, tuple(ListedFile(path, 1, OID, None) for path in paths))
