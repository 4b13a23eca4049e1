"""The only module that changes text so that no CI system takes a piece of it for a command."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\[)", re.MULTILINE)
"""What GitHub's runner takes for one: ``::name::`` at the beginning of a line, ``##[name]`` anywhere (actions/runner, ActionCommand)."""


def inert(text: str) -> str:
    """*text*, in which the first character of what could be a command has a space behind it."""
    return _COMMAND.sub(lambda match: f"{match[0]} ", text)


def inert_json(text: str) -> str:
    """The JSON *text*, with the same meaning, in one line that cannot be a command."""
    return text.replace("##[", "\\u0023#[")
