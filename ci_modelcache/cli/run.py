"""The only module that makes objects of settings: the store, the upstream, the budget and the witnesses of one command."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING

import click

from ci_modelcache import __version__
from ci_modelcache.ci.job import job_of
from ci_modelcache.cli.output import emit
from ci_modelcache.cli.telling import Telling, channel_to, checkout_of
from ci_modelcache.errors import ConfigError, ModelCacheError
from ci_modelcache.model.origin import Rank
from ci_modelcache.model.redact import redact
from ci_modelcache.settings import Mode, ProgressStyle, System
from ci_modelcache.transfer.deadline import KEPT, Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.cli.outcomes import Report
    from ci_modelcache.cli.upstreams import Upstreams
    from ci_modelcache.config import Config
    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.model.hidden import Secrets
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.transfer.ledger import Ledger
    from ci_modelcache.transfer.packing import Packer
    from ci_modelcache.transfer.progress import Progress
    from ci_modelcache.transfer.recorder import Recorder
    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.transfer.throttle import Throttle
    from ci_modelcache.verbs.near import Near
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

_KEPT_IN_BUILD = "files that came whole are in the cache mount, if the step has one"


class Run:
    """One *command* at work. The deadline of *config* begins now; everything else is made, and imported, when asked for."""

    def __init__(
        self,
        config: Config,
        *,
        command: str,
        as_json: bool,
        verbosity: int,
        secrets: Secrets,
        environ: Mapping[str, str],
        in_build: bool = False,
    ) -> None:
        self.config = config
        self.environ = environ
        self.job = job_of(environ, in_build=in_build)
        self.in_build = in_build
        hiding = partial(redact, secrets=secrets)
        self.ci = Telling(
            channel_to(config.ci, environ, pages=config.endpoint), root=checkout_of(environ), redact=hiding
        )
        self.secrets = secrets
        self.as_json = as_json
        self._quiet = verbosity < 0
        self._command = command
        self._deadline = Deadline(config.deadline, account=self._account, kept=_KEPT_IN_BUILD if in_build else KEPT)
        self.forced = False
        """Whether nothing that is remembered of upstream counts; to be set before `upstream` is made."""
        self.trusting = False
        """Whether this command may believe a mirror about what a revision means, where the settings say so; to be set as above."""
        self.instead: Store | None = None
        """What is only read in place of the store of the settings; to be set before `cache` is called."""

    # --- what is shown

    def show(self, document: object, lines: Iterable[str]) -> None:
        """The result on stdout: *document* as one JSON object, or the *lines*, which are for people and ``$(...)``."""
        if self.as_json:
            from ci_modelcache.model.document import to_plain  # noqa: PLC0415  # 60 ms

            emit(json.dumps(to_plain(document), ensure_ascii=False))
        else:
            for line in lines:
                emit(line)

    def say(self, line: str) -> None:
        """Something worth knowing that is not the result: on stderr, and not with ``-q``."""
        if not self._quiet:
            click.echo(line, err=True)

    def warn(self, message: str) -> None:
        """Something that is wrong although the work goes on: in the log, or where the CI system shows it, which is in the log too."""
        _log.log(logging.INFO if self.config.ci is System.GITHUB else logging.WARNING, "%s", message)
        self.ci.warn(message)

    @cached_property
    def progress(self) -> Progress:
        """Where work tells how far it is."""
        from ci_modelcache.cli.progress import Lines, terminal_bar  # noqa: PLC0415  # only work has progress
        from ci_modelcache.transfer.progress import Silent  # noqa: PLC0415  # as above

        style = self.config.progress
        if self._quiet or style is ProgressStyle.OFF:
            return Silent()
        if style is ProgressStyle.BAR or (style is ProgressStyle.AUTO and sys.stderr.isatty()):
            return terminal_bar(sys.stderr, color=self.config.color, clock=time.monotonic)
        return Lines(lambda: sys.stderr, clock=time.monotonic)

    # --- what is worked with

    def end_within(self, seconds: float, *, named: str) -> None:
        """Let the time budget end in *seconds*, called *named*, if not sooner; to be called before anything is made."""
        self._deadline = self._deadline.ending(seconds, named)

    @cached_property
    def ledger(self) -> Ledger:
        """Who is told what happens, and can say where the time went."""
        from ci_modelcache.transfer.ledger import Ledger  # noqa: PLC0415  # `config` needs none

        return Ledger(self._recorder)

    def _account(self) -> str:
        return self.ledger.sentence()

    @cached_property
    def _recorder(self) -> Recorder | None:
        if self.config.report is None:
            return None
        from ci_modelcache.transfer.recorder import Recorder  # noqa: PLC0415  # as above

        hiding = partial(redact, secrets=self.secrets)
        return Recorder(self.config.report, version=__version__, command=self._command, redact=hiding)

    @cached_property
    def retry(self) -> RetryPolicy:
        """How often and how long something unavailable is tried."""
        from ci_modelcache.transfer.retry import RetryPolicy  # noqa: PLC0415  # as above

        return RetryPolicy(deadline=self._deadline, events=self.ledger)

    @cached_property
    def step(self) -> Step:
        """What every verb is given."""
        from ci_modelcache.transfer.adapting import MOST  # noqa: PLC0415  # as above
        from ci_modelcache.verbs.step import Step  # noqa: PLC0415  # as above

        config = self.config
        most = MOST if config.origins["workers"].rank is Rank.DEFAULT else None
        return Step(config.state, retry=self.retry, progress=self.progress, workers=config.workers, most=most)

    @cached_property
    def throttle(self) -> Throttle:
        """The limit of all transfers together, which may be none."""
        from ci_modelcache.transfer.throttle import Throttle  # noqa: PLC0415  # as above

        return Throttle() if self.config.limit_rate is None else Throttle(self.config.limit_rate)

    @cached_property
    def upstreams(self) -> Upstreams:
        """Everybody who may be asked over the network, but the store."""
        from ci_modelcache.cli.upstreams import Upstreams  # noqa: PLC0415  # `requests` is slow to import

        return Upstreams(
            self.config,
            secrets=self.secrets,
            retry=self.retry,
            events=self.ledger,
            all_together=self.throttle,
            forced=self.forced,
            trusting=self.trusting,
        )

    @cached_property
    def upstream(self) -> Upstream:
        """The Hub and its mirrors, or one that may not be asked."""
        if self.config.offline:
            return self._offline(f"offline is set by {self.config.origins['offline']}")
        return self.upstreams.mirrors

    @contextmanager
    def telling(self, ref: ModelRef) -> Iterator[Callable[[Report], None]]:
        """Tell the CI system and the report what became of *ref*: what the block passes on, or the error that ended it."""
        from ci_modelcache.cli.outcomes import is_bringing, outcome_of  # noqa: PLC0415  # as above
        from ci_modelcache.transfer.events import SnapshotDone  # noqa: PLC0415  # as above

        def tell(report: Report) -> None:
            outcome = outcome_of(report)
            self.ci.add(outcome)
            if is_bringing(report):
                self.ledger.record(
                    SnapshotDone(
                        ref=str(ref),
                        result=report.result,
                        files=outcome.files,
                        size=outcome.size,
                        received=outcome.received,
                        seconds=outcome.seconds,
                    )
                )

        began = time.monotonic()
        try:
            with self.ci.model(ref, self._command):
                yield tell
        except ModelCacheError as error:
            seconds = time.monotonic() - began
            self.ledger.record(SnapshotDone(str(ref), type(error).__name__, seconds=seconds, error=error.message))
            raise

    def close(self) -> None:
        """Remember how the mirrors did, and end the report."""
        if "upstreams" in vars(self):
            self.upstreams.remember()
        if self._recorder is not None:
            self._recorder.close()

    # --- what is not asked

    @property
    def nobody(self) -> Upstream:
        """The same Hub by name, for commands that only look at what is here."""
        return self._offline("this command only looks at the store")

    @property
    def host(self) -> str:
        """The name of that Hub, under which snapshots are kept."""
        from ci_modelcache.sources.origin import Origin  # noqa: PLC0415  # as above

        return Origin.of(self.config.endpoint).authority

    def _offline(self, why: str) -> Upstream:
        from ci_modelcache.sources.offline import Offline  # noqa: PLC0415  # as above

        return Offline(self.host, why=why)

    @property
    def mode(self) -> Mode:
        """What may be done with the store; never `Mode.AUTO`."""
        if self.instead is not None:
            return Mode.READ
        if self.config.mode is not Mode.AUTO:
            return self.config.mode
        return Mode.READ_WRITE if self.job.may_write else Mode.READ

    @property
    def may_save(self) -> bool:
        """Whether the store may be written."""
        return self.mode is Mode.READ_WRITE

    @property
    def why_not_saved(self) -> str:
        """Where a mode comes from that lets this run only read."""
        if self.instead is not None:
            return "--from-urls only reads"
        if self.config.mode is Mode.AUTO:
            return f"mode auto: {self.job.why}"
        return f"the mode comes from: {self.config.origins['mode']}"

    def cache(self) -> ModelCache:
        """The store, to be read, and written if `may_save`, with its replicas behind it."""
        # In mode auto nobody has said that the folder must be there: a pull request may come before the first filling.
        return self._with_replicas(self._cache(create=self.may_save or self.config.mode is Mode.AUTO))

    def cache_to_read(self) -> ModelCache:
        """As `cache_to_see`, with its replicas behind it."""
        return self._with_replicas(self.cache_to_see())

    def cache_to_see(self) -> ModelCache:
        """The store for a command that only looks at it: never made by that; raises `ConfigError` when there is to be none."""
        if self.config.mode is Mode.OFF:
            msg = "this command looks at the store, and there is none: the mode is off"
            raise ConfigError(msg, hint=f"{self.why_not_saved}; give --mode read")
        return self._cache(create=False)

    def cache_to_fill(self) -> ModelCache:
        """The store, ready to be written by a command that exists to do so; raises `ConfigError` when the mode forbids it."""
        from ci_modelcache.cli.packing import require_packer  # noqa: PLC0415  # as above
        from ci_modelcache.verbs.initialise import initialise  # noqa: PLC0415  # as above

        self.require_writing()
        require_packer(self.config)
        cache = self._cache(create=True)
        initialise(cache)
        return cache

    def require_writing(self) -> None:
        """Raise `ConfigError` when the mode forbids what a command exists for."""
        if not self.may_save:
            msg = f"this command writes to the store, and the mode is {self.mode}"
            raise ConfigError(msg, hint=f"{self.why_not_saved}; give --mode read-write")

    def near(self, default: Path | None = None, *, linked: bool = False) -> Near:
        """The tier that the settings name, or else the *default*; see `Near` for *linked*."""
        from ci_modelcache.cache.tier import Tier  # noqa: PLC0415  # as above
        from ci_modelcache.verbs.near import Near  # noqa: PLC0415  # as above

        folder = self.config.tier or default
        return Near(() if folder is None else (Tier(folder),), linked=linked)

    def _cache(self, *, create: bool) -> ModelCache:
        from ci_modelcache.cache.modelcache import ModelCache  # noqa: PLC0415  # as above
        from ci_modelcache.cli.opening import open_configured  # noqa: PLC0415  # as above
        from ci_modelcache.stores.empty import EmptyStore  # noqa: PLC0415  # as above

        if self.config.mode is Mode.OFF:
            return ModelCache(EmptyStore(), retry=self.retry)
        store = open_configured(self, create=create) if self.instead is None else self.instead
        return ModelCache(self.paced(store), retry=self.retry, packer=self.packer)

    @cached_property
    def packer(self) -> Packer | None:
        """Who packs what is written to a store, or None."""
        from ci_modelcache.cli.packing import packer_of  # noqa: PLC0415  # as above

        return packer_of(self.config, warn=self.warn if self.may_save else _log.debug)

    def _with_replicas(self, cache: ModelCache) -> ModelCache:
        from ci_modelcache.cli.opening import with_replicas  # noqa: PLC0415  # as above

        named = self.config.replicas and self.instead is None and self.config.mode is not Mode.OFF
        return with_replicas(cache, self) if named else cache

    def paced(self, store: Store) -> Store:
        """*store*, under the limit of all transfers if there is one."""
        from ci_modelcache.stores.throttled import throttled  # noqa: PLC0415  # as above

        return store if self.config.limit_rate is None else throttled(store, self.throttle, deadline=self._deadline)

    def layout(self, ref: ModelRef, folder: Path | None) -> Layout:
        """Where *ref* goes: into *folder* itself, or for None into the Hub cache."""
        from ci_modelcache.layouts.hub_cache import HubCacheLayout  # noqa: PLC0415  # as above
        from ci_modelcache.layouts.plain import PlainLayout  # noqa: PLC0415  # as above

        if folder is None:
            return HubCacheLayout(self.config.hub_cache, ref.repo, ref.type, normalize_mtime=self.config.mtime)
        return PlainLayout(folder, normalize_mtime=self.config.mtime)
