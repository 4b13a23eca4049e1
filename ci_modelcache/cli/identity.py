"""The only module that decides by which identity a job takes on a role: what GitHub or GitLab say of it, or a token in a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError
from ci_modelcache.sources.tokens.issued import claims
from ci_modelcache.sources.tokens.local import from_file
from ci_modelcache.sources.tokens.oidc import URL, GitHub, GitLab
from ci_modelcache.stores.s3_role import AssumedRole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci_modelcache.sources.http import HttpSession
    from ci_modelcache.sources.tokens.issued import Provider
    from ci_modelcache.transfer.deadline import Deadline

_log = logging.getLogger(__name__)

AUDIENCE = "sts.amazonaws.com"
"""Whom GitHub's tokens are for, as AWS asks of them; GitLab's are for whom ``id_tokens:`` says."""
GITLAB = "MODELCACHE_ID_TOKEN"
FILE = "AWS_WEB_IDENTITY_TOKEN_FILE"


def role_of_job(
    arn: str, *, environ: Mapping[str, str], session: HttpSession, deadline: Deadline, needed: bool
) -> AssumedRole | None:
    """
    The role *arn* for the job of *environ*; its ID tokens are asked for with *session* until *deadline*.

    When nothing says who the job is, this is a `ConfigError`, or None with a warning when the role is not *needed*.
    """
    try:
        provider = _provider(arn, environ, session)
    except ConfigError as error:
        if needed:
            raise
        _log.warning("%s; what everybody may read can be read without", error)
        return None

    def token() -> str:
        return provider.issue(deadline=deadline).token.secret

    return AssumedRole(arn, token, secrets=session.secrets, described=described)


def described(token: str) -> str:
    """Whom an ID *token* is about, in words that are no secret: the claims that trust policies are about."""
    said = claims(token)
    found = [f"{name} {said[name]}" for name in ("sub", "aud", "iss") if isinstance(said.get(name), str)]
    return ", ".join(found) or "this job"


def _provider(arn: str, environ: Mapping[str, str], session: HttpSession) -> Provider:
    if environ.get(URL):
        return GitHub(AUDIENCE, environ, session)
    if environ.get(GITLAB):
        return GitLab(GITLAB, environ, session)
    if path := environ.get(FILE):
        return from_file(Path(path), session.now)
    msg = f"the role {arn} cannot be taken on: nothing says who this job is (no {URL}, no {GITLAB}, no {FILE})"
    hint = (
        'on GitHub give the job "permissions: id-token: write" (jobs of forks never get it); '
        f'on GitLab "id_tokens: {{{GITLAB}: {{aud: {AUDIENCE}}}}}"; elsewhere write an ID token into a file and name it in {FILE}'
    )
    raise ConfigError(msg, hint=hint)
