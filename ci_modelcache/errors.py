"""
Every failure that this package raises on purpose, as one tree; the only module that knows exit codes.

::

    ModelCacheError                      1
    +- ConfigError                       2    a flag, variable, file or argument is wrong
    |  +- InvalidRef                          a model reference that cannot be read
    |  +- LockStale                           modelcache.lock does not match modelcache.toml
    |  +- BucketMissing                       the store's bucket or folder does not exist
    |  +- StoreUnsupported                    another format, or a feature this version lacks
    |  +- CollectionRefused                   a brake: too much would go, nothing has a ref, or it is another store
    +- NotFound                         10    a miss: everybody who could know says no
    |  +- ObjectNotFound                      a key that a store does not hold
    |  |  +- NotDecodable                     one that is there, in an encoding that this machine lacks a library for
    |  +- SnapshotNotFound                    a snapshot that the store does not hold
    |  +- RepositoryNotFound                  a repository that the source does not have
    |  +- RevisionNotFound                    a branch, tag or commit that the source does not have
    |  +- FileNotFound                        a file that the source does not have at that commit
    |  +- ImageNotFound                       an image that the engine does not have
    |  +- NotInLock                           a model that modelcache.lock does not name
    +- Unavailable                      11    worth another try: refused, reset, timed out, 5xx
    |  +- RateLimited                         429, with the seconds to wait when they were given
    |  +- Stalled                             no bytes, or too few of them, for seconds
    |  +- BrokenOff                           the connection ended before the last byte
    +- AccessDenied                     12    401 or 403: never retried, never "missing"
    +- IntegrityError                   13    bytes differ from what was promised
    |  +- DigestMismatch                      the digest is another
    |  +- SizeMismatch                        the length is another
    |  +- Misanswer                           an answer to another question: a web page, another range, another commit
    |  +- Rewritten                           bytes that were read have proved wrong since, and were replaced
    |  +- ManifestInvalid                     a manifest, ref, marker or lock that breaks its format
    |  +- UnsafePath                          a path that must not meet a disk
    |  +- SnapshotConflict                    one commit, two different manifests
    +- AlreadyExists                     1    a create-only write found its key taken
    +- NoSpace                          14    a disk is full, or would be
    +- DeadlineExceeded                 15    the time budget of the step is spent
    +- Interrupted                     130    Ctrl-C or SIGTERM

`Unavailable` is the only type that is ever retried. The names state the fact, so ruff's N818
(an ``Error`` suffix) is off for this file.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ModelCacheError(Exception):
    """
    The root: *message* says what happened, *hint* what the user can do next.

    Neither may hold a secret: text from outside goes through `model.redact` before it comes here.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy: not by the constructor, for those below take other arguments."""
        return _bare, (type(self), self.args), self.__dict__


def _bare(kind: type[ModelCacheError], args: tuple[object, ...]) -> ModelCacheError:
    return kind.__new__(kind, *args)


class ConfigError(ModelCacheError):
    exit_code = 2


class InvalidRef(ConfigError):
    pass


class LockStale(ConfigError):
    pass


class BucketMissing(ConfigError):
    pass


class StoreUnsupported(ConfigError):
    pass


class CollectionRefused(ConfigError):
    pass


class NotFound(ModelCacheError):
    exit_code = 10
    definite: bool = False
    """Whether a source said in so many words that it has no such thing, rather than that it knows nothing of it (yet)."""


class ObjectNotFound(NotFound):
    """A store does not hold *key*; *where* is the store as its user knows it."""

    def __init__(self, key: str, where: str) -> None:
        super().__init__(f"{where} holds no object {key}")
        self.key = key


class NotDecodable(ObjectNotFound):
    """*where* holds *key* in an encoding for which something is missing here, as *why* says: to this machine that is as if it were not there."""

    def __init__(self, key: str, where: str, *, why: str, hint: str | None) -> None:
        super().__init__(key, where)
        self.message = f"{where}/{key} cannot be read here: {why}"
        self.args = (self.message,)
        self.hint = hint


class SnapshotNotFound(NotFound):
    pass


class RepositoryNotFound(NotFound):
    pass


class RevisionNotFound(NotFound):
    pass


class FileNotFound(NotFound):
    pass


class ImageNotFound(NotFound):
    pass


class NotInLock(NotFound):
    pass


class Unavailable(ModelCacheError):
    exit_code = 11


class RateLimited(Unavailable):
    """The other side asked us to slow down; *retry_after* is in seconds, None when it did not say."""

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Stalled(Unavailable):
    pass


class BrokenOff(Unavailable):
    pass


class AccessDenied(ModelCacheError):
    exit_code = 12


class IntegrityError(ModelCacheError):
    exit_code = 13


class DigestMismatch(IntegrityError):
    """*what* (a path or key) should have had digest *expected* and has *actual*, both lower-case hex."""

    def __init__(self, what: str, *, expected: str, actual: str, hint: str | None = None) -> None:
        super().__init__(f"{what}: expected digest {expected}, got {actual}", hint=hint)
        self.expected = expected
        self.actual = actual


class SizeMismatch(IntegrityError):
    """*what* (a path or key) should have had *expected* bytes and has *actual*."""

    def __init__(self, what: str, *, expected: int, actual: int, hint: str | None = None) -> None:
        super().__init__(f"{what}: expected {expected} bytes, got {actual}", hint=hint)
        self.expected = expected
        self.actual = actual


class Misanswer(IntegrityError):
    """An upstream answered something else than it was asked; *about* is one word: ``range``, ``page``, ``commit``, ``etag``."""

    def __init__(self, message: str, *, about: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.about = about


class Rewritten(IntegrityError):
    """For whoever reads again, never for a user."""


class ManifestInvalid(IntegrityError):
    pass


class UnsafePath(IntegrityError):
    pass


class SnapshotConflict(IntegrityError):
    pass


class AlreadyExists(ModelCacheError):
    """A create-only write found *key* taken: an answer to handle, never one to show to a user."""

    def __init__(self, key: str, where: str) -> None:
        super().__init__(f"{where} holds {key} already")
        self.key = key


class NoSpace(ModelCacheError):
    exit_code = 14


class DeadlineExceeded(ModelCacheError):
    exit_code = 15


class Interrupted(ModelCacheError):
    exit_code = 130
