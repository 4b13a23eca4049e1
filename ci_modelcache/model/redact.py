"""The only module that knows what a secret looks like inside a text; errors and log records go through it."""

from __future__ import annotations

import logging
import re
import traceback
from typing import TYPE_CHECKING

from ci_modelcache.model.hidden import Secrets

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "***"

_SHORTEST = 6
"""Characters; a shorter "secret" would blank out ordinary words."""

_WORDS = (
    r"token(?!i)|secret|passw|signature|credential|api[-_]?key|access[-_]?key|policy|key-pair-id|googleaccessid"
    r"|authorization"
)
# Possessive (``++``) and anchored by look-behinds, so that a long line costs time in proportion to its length.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # Headers, as sent and as Python or JSON show them: to the closing quote, else to the end of the line,
        # for an AWS signature is several words.
        (
            r"(['\"])((?:proxy-)?authorization|(?:set-)?cookie|[\w-]*(?:token|api-key|secret|password))\1(\s*[:,]\s*b?)(['\"]).*?(?:\4|$)",
            rf"\1\2\1\3\4{HIDDEN}\4",
        ),
        (
            # What a job is to be allowed is no secret, and a remedy: id-token: write.
            r"(?<![\w'\"-])(?!id-token: write(?![\w-]))((?:proxy-)?authorization|(?:set-)?cookie|[\w-]*-token|x-api-key)(\s*:\s*)(?!//)[^\r\n'\"]+",
            rf"\1\2{HIDDEN}",
        ),
        (r"\b(bearer)\s+[^\s'\"<>,;]+", rf"\1 {HIDDEN}"),
        # The last @ before a slash ends the userinfo: an unencoded one in a password must not save its rest.
        (r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]*+://)[^/?#\s'\"<>]*@", rf"\1{HIDDEN}@"),
        # Query parameters and NAME=value: presigned S3 (X-Amz-*), GCS, CloudFront (Policy, Signature,
        # Key-Pair-Id), Azure (sig), and whatever calls itself a token.
        (
            rf"(?<![\w-])((?:(?=[\w-]*?(?:{_WORDS}))[\w-]++|sig|jwt|auth)(?:=|%3d))[^&\s'\"<>#]+",
            rf"\1{HIDDEN}",
        ),
        # Tokens that can be told by their own form: Hugging Face, GitHub, GitLab, AWS key ids, JWT.
        (r"\bhf_(?:oauth_|jwt_)?[a-z0-9]{16,}", HIDDEN),
        (r"\b(?:gh[oprsu]_|github_pat_)\w{16,}", HIDDEN),
        (r"\bgl[a-z]{1,6}-[\w-]{16,}", HIDDEN),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b", HIDDEN),
        (r"(?<![\w-])eyJ[\w-]+\.[\w-]+\.[\w-]*", HIDDEN),
    )
)


def redact(text: str, *, secrets: Iterable[str] = ()) -> str:
    """
    *text* with every secret replaced by ``***``: bearer and CI tokens, ``Authorization`` and cookie values,
    userinfo of URLs, signatures of presigned URLs, and each of *secrets* as it stands.

    It errs towards hiding. What it cannot see is a secret without a mark around it that is not in *secrets*.
    """
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


class RedactingFilter(logging.Filter):
    """
    Redacts message, arguments, exception and stack of every record; *secrets* are the values in use, those of `Secrets` also when they come later.

    Add it to each *handler*: a filter on a logger does not see the records of the loggers below it.
    """

    def __init__(self, *, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets if isinstance(secrets, Secrets) else tuple(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        """Change *record* in place and let it pass, always."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # Arguments that do not fit: a filter that raised here would stop the program for a log line.
            message = f"{record.msg} {record.args!r}"
        record.msg, record.args = redact(message, secrets=self._secrets), None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        record.exc_info = None
        if record.exc_text:
            record.exc_text = redact(record.exc_text, secrets=self._secrets)
        if record.stack_info:
            record.stack_info = redact(record.stack_info, secrets=self._secrets)
        return True
