"""The only module that knows which files of a repository a user asked for."""

from __future__ import annotations

import fnmatch
import unicodedata
from typing import TYPE_CHECKING, Self

import rfc8785
from attrs import field, frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

ALL = "all"


def _canonical(patterns: Iterable[str]) -> tuple[str, ...]:
    """A pattern that names a folder means all below it, as in `huggingface_hub`; NFC, as paths are."""
    if isinstance(patterns, str):
        msg = f"patterns are a list of texts, got the text {patterns!r:.100}"
        raise TypeError(msg)
    texts = sorted({unicodedata.normalize("NFC", f"{p}*" if p.endswith("/") else p) for p in patterns})
    if "" in texts:
        msg = "an empty pattern selects no file"
        raise ConfigError(msg, hint="leave it out; an unset variable makes it empty")
    return tuple(texts)


@frozen
class Selection:
    """
    Patterns of files to *include* (none: every file) and to *exclude*.

    They are shell patterns in which ``*`` also crosses ``/``, matched case-sensitively: the meaning of
    ``allow_patterns`` and ``ignore_patterns`` of `huggingface_hub` on Linux.
    """

    include: tuple[str, ...] = field(default=(), converter=_canonical)
    exclude: tuple[str, ...] = field(default=(), converter=_canonical)

    @classmethod
    def everything(cls) -> Self:
        """The full snapshot."""
        return cls()

    @property
    def id(self) -> str:
        """``all``, or 16 hex digits of the canonical patterns: a partial snapshot never takes the full one's place."""
        if not self.include and not self.exclude:
            return ALL
        document = {"exclude": list(self.exclude), "include": list(self.include)}
        return Digest.of(rfc8785.dumps(document)).hex[:16]

    def selects(self, path: str) -> bool:
        """Whether the file at *path* is asked for."""
        included = not self.include or any(fnmatch.fnmatchcase(path, p) for p in self.include)
        return included and not any(fnmatch.fnmatchcase(path, p) for p in self.exclude)
