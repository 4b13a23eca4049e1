"""
The only module that keeps in a store by what an authority's answer about a branch is recognised, so that it need not be sent again.

All of it is advice: without it the authority is asked in full.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import AnswerRecord
from ci_modelcache.errors import AccessDenied, IntegrityError, ObjectNotFound, Unavailable
from ci_modelcache.model.document import from_json, to_json
from ci_modelcache.sources.protocol import Meaning

if TYPE_CHECKING:
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import ModelRef

_log = logging.getLogger(__name__)

LONGEST = 86_400.0
"""
Seconds for which an answer is recognised. After that it is asked for in full: a proxy that says "as before" by mistake, or a date
that does not change when a branch moves back, is then wrong for a day and not for ever.
"""


def known_answer(cache: ModelCache, host: str, ref: ModelRef) -> Meaning | None:
    """What the authority *host* said of *ref* in the last day, to be recognised by it; None when nobody kept it, or it cannot be used."""
    key = keys.answer(host, ref.type, ref.repo, ref.revision)
    try:
        record = from_json(cache.document(key), AnswerRecord, f"{cache.url}/{key}")
    except (ObjectNotFound, IntegrityError, AccessDenied, Unavailable) as error:
        _log.debug("asking in full: %s", error)
        return None
    if record.revision != ref.revision or abs(cache.now() - record.observed_at) > LONGEST:
        return None
    return Meaning(record.commit, record.etag, record.last_modified)


def keep_answer(cache: ModelCache, host: str, ref: ModelRef, meaning: Meaning) -> None:
    """Keep *meaning*, which the authority *host* has just given, unless it cannot be recognised. Raises as a store does."""
    if meaning.etag or meaning.last_modified:
        key = keys.answer(host, ref.type, ref.repo, ref.revision)
        record = AnswerRecord(ref.revision, meaning.commit, meaning.etag, meaning.last_modified, int(cache.now()))
        cache.put_document(key, to_json(record))
