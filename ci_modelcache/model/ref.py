"""The only module that reads what a user types to name a model: ``[type:]org/name[@revision]``."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Self

from attrs import field, frozen

from ci_modelcache.errors import InvalidRef
from ci_modelcache.model.digest import is_git_oid

DEFAULT_REVISION = "main"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,96}")
_REVISION_BAD = re.compile(
    r"[\x00-\x20\x7f-\x9f\ud800-\udfff~^:?*\[\\]|\.\.|//|@\{|^/|/$|\.$|^-|(?:^|/)\.|\.lock(?:/|$)"
)
_MAX_REVISION = 255
_HINT = "write it as org/name, org/name@revision or dataset:org/name@revision"


class RepoType(StrEnum):
    """The kinds of repository that a Hub has and this tool stores."""

    MODEL = "model"
    DATASET = "dataset"
    SPACE = "space"


def _check_repo(_instance: object, _attribute: object, repo: str) -> None:
    """The Hub's own rule (`validate_repo_id`): one or two segments of word characters, dots and dashes."""
    segments = repo.split("/")
    good = len(segments) in {1, 2} and all(
        _NAME.fullmatch(segment) and segment[0] not in "-." and segment[-1] not in "-." for segment in segments
    )
    if not good or "--" in repo or ".." in repo or repo.endswith(".git"):
        msg = f"not a repository name: {repo!r:.200}"
        raise InvalidRef(msg, hint=_HINT)


def _check_revision(_instance: object, _attribute: object, revision: str) -> None:
    """What git accepts as a ref name (git-check-ref-format), in at most 255 bytes of UTF-8."""
    # Surrogates are what Python makes of bytes that are no UTF-8, on a command line for example.
    size = len(revision.encode(errors="surrogatepass"))
    if not 0 < size <= _MAX_REVISION or _REVISION_BAD.search(revision):
        msg = f"not a revision: {revision!r:.300}"
        raise InvalidRef(
            msg, hint="a revision is a branch, a tag or a commit of 40 digits; an unset variable makes it empty"
        )


@frozen
class ModelRef:
    """A repository at a revision; what a user asks for. Malformed parts raise `InvalidRef`."""

    repo: str = field(validator=_check_repo)
    revision: str = field(default=DEFAULT_REVISION, validator=_check_revision)
    type: RepoType = RepoType.MODEL

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        revision: str | None = None,
        type: RepoType | None = None,  # the Hub's own word
    ) -> Self:
        """Read ``[type:]org/name[@revision]``; *revision* and *type*, when given, must not contradict the text."""
        if "://" in text:
            msg = f"a URL instead of a repository name: {text!r:.300}"
            raise InvalidRef(msg, hint=_HINT)
        kind, colon, rest = text.partition(":")
        if not colon:
            kind, rest = "", text
        repo, at, named = rest.partition("@")
        if at and revision is not None and named != revision:
            msg = f"two revisions: {named!r} in {text!r}, and {revision!r}"
            raise InvalidRef(msg, hint="give the revision once")
        if colon and kind not in list(RepoType):
            msg = f"unknown repository type {kind!r:.100} in {text!r:.300}"
            raise InvalidRef(msg, hint=f"the types are {', '.join(RepoType)}")
        if colon and type is not None and kind != type:
            msg = f"two types: {kind!r} in {text!r}, and {type.value!r}"
            raise InvalidRef(msg, hint="give the type once")
        chosen = RepoType(kind) if colon else type or RepoType.MODEL
        asked = DEFAULT_REVISION if revision is None else revision
        return cls(repo, named if at else asked, chosen)

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a full commit, which can never mean anything else."""
        return is_git_oid(self.revision)

    def at(self, revision: str) -> ModelRef:
        """The same repository at *revision*."""
        return ModelRef(self.repo, revision, self.type)

    def __str__(self) -> str:
        kind = "" if self.type is RepoType.MODEL else f"{self.type}:"
        return f"{kind}{self.repo}@{self.revision}"


@frozen
class SnapshotId:
    """What exactly is stored: a repository of a Hub *host* at one *commit*, in full or as a *selection*."""

    host: str
    type: RepoType
    repo: str
    commit: str
    selection: str

    def __str__(self) -> str:
        part = "" if self.selection == "all" else f" (selection {self.selection})"
        kind = "" if self.type is RepoType.MODEL else f"{self.type}:"
        return f"{kind}{self.repo}@{self.commit}{part}"
