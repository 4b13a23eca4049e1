"""The only module that takes a document of the project apart: its code blocks and the rows of its tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of *text* in that language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shown(text: str, name: str) -> str:
    """The output below ``<!-- shown: NAME -->``."""
    found = re.search(rf"^<!-- shown: {name} -->\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no block directly below <!-- shown: {name} -->"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table in *text*, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    tables = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [number for number, row in enumerate(tables) if set("".join(row)) == {"-"}]
    return [row for number, row in enumerate(tables) if number not in rules and number + 1 not in rules]


def shape(text: str) -> list[str]:
    """Lines with numbers, sizes and the width of columns taken out."""
    plain = re.sub(r"\d+(?:\.\d+)?(?: [kMGT]?B\b)?", "N", text)
    return [re.sub(r" {2,}", "  ", re.sub(r"\b(request)s?\b", r"\1", line)).rstrip() for line in plain.splitlines()]
