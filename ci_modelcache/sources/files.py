"""
The only module that knows how a folder of files is laid out on a web server: ``<url>/<repo>/<commit>/<path>``.

It is what ``snapshots/`` of a Hub cache is when it is copied with its links followed (``rsync -rL``), or what a plain restore into
a folder of that name is. Data sets and spaces lie below ``datasets/`` and ``spaces/``, as in the addresses of the Hub. The server
needs to know nothing: nginx, Apache, a bucket that is served as a web site, ``python -m http.server``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from ci_modelcache.sources.address import FOLDERS
from ci_modelcache.sources.bodies import BODIES, Part, check_links, pieces_of
from ci_modelcache.sources.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.http import HttpSession
    from ci_modelcache.sources.token import Token, TokenSource
    from ci_modelcache.transfer.deadline import Deadline


class HttpFolder:
    """
    Files below *url* (``https://host/folder``), as any web server serves a folder (`sources.protocol.ByteSource`).

    *strict_ranges* is for who has other sources (`sources.bodies.pieces_of`).
    """

    def __init__(
        self,
        url: str,
        *,
        session: HttpSession,
        deadline: Deadline,
        token: Token | TokenSource | None = None,
        strict_ranges: bool = False,
    ) -> None:
        self._site = Site.of(url, kind="files", session=session, deadline=deadline, token=token)
        self.strict_ranges = strict_ranges
        self.sends_ranges: bool | None = None

    @property
    def url(self) -> str:
        return self._site.url

    @contextmanager
    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        site = self._site
        what = f"{file.path} of {ref.at(commit)}"
        part = Part(file, f"reading {what} from {self.url}", start, stop)
        if part.empty:
            yield iter(())
            return
        address = f"{FOLDERS[ref.type]}{ref.repo}/{commit}/{quote(file.path)}"
        with site.ask(address, doing=part.doing, headers=part.headers) as answer:
            if answer.status not in BODIES:
                raise site.refusal(answer, what)
            check_links(answer.hops, part, commit=commit)
            yield pieces_of(answer, part, self, deadline=site.deadline)
