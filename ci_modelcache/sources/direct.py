"""The only module that asks by URLs that are secrets themselves: what they are meant for answers, or nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.sources.http import HttpSession

if TYPE_CHECKING:
    import requests


class DirectSession(HttpSession):
    """An `HttpSession` that follows no redirect: its `ask` yields that answer as it yields any other."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002  # its base's name for it
        """Nowhere, wherever *resp* sends us."""
        return None
