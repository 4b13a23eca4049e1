"""How a command line went, when it was run in this process."""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen


@frozen(repr=False)
class Outcome:
    """The exit code, and what was printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
