"""The only module that speaks to GitLab: sections in the log, and the files that the job's reports are made of."""

from __future__ import annotations

import json
import logging
import shlex
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.ci.outcome import outputs_of
from ci_modelcache.errors import NoSpace
from ci_modelcache.transfer.land import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ci_modelcache.ci.channel import Note
    from ci_modelcache.ci.outcome import ModelOutcome, Outcome

_log = logging.getLogger(__name__)

FOLDER = ".modelcache"
"""Below the project's folder: reports may name files of that folder alone."""
OUTPUTS = "outputs.env"
ENVIRONMENT = "environment.sh"
ANNOTATIONS = "annotations.json"
PREFIX = "MODELCACHE_"
"""What the names of the outputs begin with, which later jobs get as variables."""


class GitLab:
    """
    A GitLab job, whose variables are *environ* (`Channel`); *clock* is seconds since 1970, *pages* the Hub's address.

    Formats: GitLab Docs, "Job logs" (custom collapsible sections), "Artifacts reports types" (dotenv, annotations).
    """

    def __init__(
        self, environ: Mapping[str, str], say: Callable[[str], None], *, clock: Callable[[], float], pages: str
    ) -> None:
        self._folder = Path(environ.get("CI_PROJECT_DIR") or ".") / FOLDER
        self._say = say
        self._clock = clock
        self._pages = pages
        self._sections = 0

    def guarded(self) -> AbstractContextManager[None]:
        """GitLab takes no line of a log for a command, but for the marks of sections, which need a control character."""
        return nullcontext()

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        self._sections += 1
        name = f"modelcache_{self._sections}"
        shown = "".join(char if char.isprintable() else "?" for char in title)
        self._say(f"\x1b[0Ksection_start:{self._clock():.0f}:{name}[collapsed=true]\r\x1b[0K{shown}")
        try:
            yield
        finally:
            self._say(f"\x1b[0Ksection_end:{self._clock():.0f}:{name}\r\x1b[0K")

    def hide(self, secret: str) -> None:
        """GitLab masks only variables that were said to be masked beforehand: what we write ourselves is redacted."""

    def note(self, note: Note) -> None:
        """The message itself is in the log, as everywhere, for GitLab shows a note nowhere else; where it is about is not."""
        if note.place is not None:
            self._say(f"{note.level} at {note.place.path}:{note.place.line}")

    def finish(self, outcome: Outcome) -> None:
        values = {PREFIX + name.upper().replace("-", "_"): value for name, value in outputs_of(outcome).items()}
        # One line a value is all that a dotenv report knows.
        report = "".join(f"{name}={value}\n" for name, value in values.items() if value.isprintable())
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in outcome.environment.items())
        links = {"models": [_link(model, self._pages) for model in outcome.models]}
        self._write(OUTPUTS, report)
        self._write(ENVIRONMENT, exports)
        self._write(ANNOTATIONS, json.dumps(links if links["models"] else {}) + "\n")

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(text.encode(errors="backslashreplace"))
        except (OSError, NoSpace) as error:
            _log.warning("the file %s for GitLab's reports cannot be written: %s", path, error)


def _link(model: ModelOutcome, pages: str) -> dict[str, dict[str, str]]:
    kind, _, name = model.ref.partition("@")[0].rpartition(":")
    folder = f"{kind}s/" if kind else ""
    url = f"{pages}/{folder}{name}" + (f"/tree/{model.commit}" if model.commit else "")
    return {"external_link": {"label": f"{model.ref}: {model.result}", "url": url}}
