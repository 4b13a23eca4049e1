"""The only module that runs command lines in this process, and says how they went."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ci_modelcache.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


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


def calling(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Outcome]:
    """What runs a line, without the program's name, as a shell would divide it."""

    def run(line: str) -> Outcome:
        capsys.readouterr()
        code = main(shlex.split(line))
        return Outcome(code, *capsys.readouterr())

    return run
