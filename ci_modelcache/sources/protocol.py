"""What an upstream is: an authority that says which files a revision has, and sources of their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from ci_modelcache.model.listing import ListedFile, Listing
    from ci_modelcache.model.ref import ModelRef


@frozen
class RefName:
    """A branch or tag and the *commit* (40 hex digits) that it means."""

    name: str
    commit: str


@frozen
class Meaning:
    """
    The *commit* (40 hex digits) that a reference meant, and by what the answer that said so can be recognised.

    *etag* and *last_modified* are the validators of that answer (RFC 9110, section 8.8), verbatim, or empty. They are for whoever gave
    them: kept and given back as *known*, they let the same authority say "as before" without a body.
    """

    commit: str
    etag: str = ""
    last_modified: str = ""


class Authority(Protocol):
    """
    Says what a revision means. It is trusted, over TLS; the bytes that anybody sends are not.

    Raises `RepositoryNotFound` or `RevisionNotFound` for a definite no, `AccessDenied` for 401, 403 and
    gated repositories, `Unavailable` (after its own retries) for the rest, `IntegrityError` for an answer that makes no sense.
    """

    @property
    def host(self) -> str:
        """The name under which snapshots are kept: host name, with ``:port`` when it is not the scheme's own."""

    def resolve(self, ref: ModelRef, *, known: Meaning | None = None, patience: float | None = None) -> Meaning:
        """
        What *ref* means now.

        *known* is an earlier answer of this authority; when it says that nothing changed, the very object *known* is returned.
        *patience* is for a caller who has another answer at hand: after two attempts, or so many seconds, it is `Unavailable`
        (`RateLimited` at once, when asked to wait for longer); None is the patience of everything else.
        """

    def listing(self, ref: ModelRef, commit: str) -> Listing:
        """Every file of *commit* in the repository of *ref*."""

    def branches(self, ref: ModelRef) -> tuple[RefName, ...]:
        """All branches of the repository."""

    def tags(self, ref: ModelRef) -> tuple[RefName, ...]:
        """All tags of the repository."""


class ByteSource(Protocol):
    """Sends the bytes of a file, which its caller proves; mirrors are further implementations of this."""

    @property
    def url(self) -> str:
        """The source as its user writes it, without credentials."""

    @property
    def sends_ranges(self) -> bool | None:
        """Whether it sends parts of large files; None before that was seen. One that does not is asked for all of a file at once."""

    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        """
        Yield an iterator over the bytes of *file* from offset *start* to *stop* (exclusive; None: the end); one attempt, no retry.

        Raises `FileNotFound`, `AccessDenied`, `Unavailable`; `SizeMismatch` when the source announces another length, and
        `Misanswer` when it sends something else than was asked for. A source may end early without an error, and may
        send more than was asked for: a reader counts.
        """


class Upstream(Authority, ByteSource, Protocol):
    """Both in one, as a Hub-compatible endpoint is."""
