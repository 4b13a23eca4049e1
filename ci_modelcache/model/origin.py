"""The only module that says what sort of place the value of a setting came from."""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen


class Rank(StrEnum):
    """What sort of place a value came from."""

    FLAG = "flag"
    VARIABLE = "variable"
    PROJECT = "project file"
    USER = "user file"
    DEFAULT = "default"


@frozen
class Origin:
    """Where a value came from; *text* is for people: ``flag --store``, ``modelcache.toml:3``."""

    rank: Rank
    text: str

    def __str__(self) -> str:
        return self.text
