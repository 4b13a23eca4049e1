"""The only module that makes objects of settings: the store, the upstream, the budget and the witnesses of one command."""

from __future__ import annotations

import json
import sys
import time
from functools import cached_property
from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.output import emit
from ci_modelcache.config import Rank
from ci_modelcache.errors import ConfigError
from ci_modelcache.settings import Mode, ProgressStyle
from ci_modelcache.transfer.deadline import Deadline

TOKENS = "tokens"
"""The folder of the state in which tokens are kept."""

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.config import Config
    from ci_modelcache.layouts.protocol import Layout
    from ci_modelcache.model.hidden import Secrets
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.http import HttpSession
    from ci_modelcache.sources.protocol import Upstream
    from ci_modelcache.sources.token import TokenSource
    from ci_modelcache.sources.tokens.vault import Vault
    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.transfer.events import Events
    from ci_modelcache.transfer.progress import Progress
    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.verbs.step import Step


class Run:
    """One command at work. The deadline of *config* begins now; everything else is made, and imported, when asked for."""

    def __init__(self, config: Config, *, as_json: bool, verbosity: int, secrets: Secrets) -> None:
        self.config = config
        self.secrets = secrets
        self._as_json = as_json
        self._quiet = verbosity < 0
        self._deadline = Deadline(config.deadline)
        self.forced = False
        """Whether nothing that is remembered of upstream counts; to be set before `upstream` is made."""

    # --- what is shown

    def show(self, document: object, lines: Iterable[str]) -> None:
        """The result on stdout: *document* as one JSON object, or the *lines*, which are for people and ``$(...)``."""
        if self._as_json:
            from ci_modelcache.model.document import to_plain  # noqa: PLC0415  # 60 ms

            emit(json.dumps(to_plain(document), ensure_ascii=False))
        else:
            for line in lines:
                emit(line)

    def say(self, line: str) -> None:
        """Something worth knowing that is not the result: on stderr, and not with ``-q``."""
        if not self._quiet:
            click.echo(line, err=True)

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

    @cached_property
    def retry(self) -> RetryPolicy:
        """How often and how long something unavailable is tried."""
        from ci_modelcache.transfer.retry import RetryPolicy  # noqa: PLC0415  # `config` needs none

        return RetryPolicy(deadline=self._deadline)

    @cached_property
    def step(self) -> Step:
        """What every verb is given."""
        from ci_modelcache.verbs.step import Step  # noqa: PLC0415  # as above

        return Step(self.config.state, retry=self.retry, progress=self.progress, workers=self.config.workers)

    @cached_property
    def upstream(self) -> Upstream:
        """The Hub that is asked, or one that may not be."""
        from ci_modelcache.sources.hub import HubEndpoint  # noqa: PLC0415  # `requests` is slow to import
        from ci_modelcache.sources.sparing import Sparing  # noqa: PLC0415  # as above
        from ci_modelcache.transfer.refusals import Refusals  # noqa: PLC0415  # as above

        if self.config.offline:
            return self._offline(f"offline is set by {self.config.origins['offline']}")
        url = self.config.endpoint
        endpoint = HubEndpoint(url, session=self.session, token=self.tokens_for(url), retry=self.retry)
        refusals = Refusals(self.config.state / "refusals", believe=self.config.revision_ttl > 0 and not self.forced)
        return Sparing(endpoint, refusals, secret="\n".join(self.config.secrets))

    # --- tokens

    @cached_property
    def session(self) -> HttpSession:
        """The connections to everybody who speaks HTTP and is no store."""
        from ci_modelcache.sources.http import HttpSession  # noqa: PLC0415  # as above

        return HttpSession(ca_bundle=self.config.hub_ca_bundle, secrets=self.secrets)

    @cached_property
    def events(self) -> Events:
        """Who is told what happens."""
        from ci_modelcache.transfer.events import Unrecorded  # noqa: PLC0415  # as above

        return Unrecorded()

    @cached_property
    def vault(self) -> Vault:
        """Where tokens outlast this process."""
        from ci_modelcache.sources.tokens.vault import open_vault  # noqa: PLC0415  # as above

        return open_vault(self.config.state / TOKENS)

    def tokens_for(self, url: str) -> TokenSource | None:
        """Where the token for the origin of *url* comes from; None when nobody named one."""
        from ci_modelcache.sources.http import Origin  # noqa: PLC0415  # as above
        from ci_modelcache.sources.token import StaticToken  # noqa: PLC0415  # as above
        from ci_modelcache.sources.tokens.parse import Means, given_source, token_source  # noqa: PLC0415  # as above

        asked, config = Origin.of(url), self.config
        found = next((one for one in config.token_sources if Origin.of(one.address) == asked), None)
        if found is None:
            if config.token is None or asked != Origin.of(config.endpoint):
                return None
            return StaticToken(config.token)
        locks = config.state / TOKENS / "locks"
        means = Means(self.session, lambda: self.vault, locks, environ=config.variables, events=self.events)
        if isinstance(found.provider, str):
            return token_source(found.provider, host=found.host, means=means)
        return given_source(found.provider, host=found.host, origin=str(found.origin), means=means)

    # --- what is not asked

    @property
    def nobody(self) -> Upstream:
        """The same Hub by name, for commands that only look at what is here."""
        return self._offline("this command only looks at the store")

    def _offline(self, why: str) -> Upstream:
        from ci_modelcache.sources.http import Origin  # noqa: PLC0415  # as above
        from ci_modelcache.sources.offline import Offline  # noqa: PLC0415  # as above

        return Offline(Origin.of(self.config.endpoint).authority, why=why)

    @property
    def may_save(self) -> bool:
        """Whether the store may be written."""
        return self.config.mode is Mode.READ_WRITE

    def cache(self) -> ModelCache:
        """The store, to be read, and written if `may_save`."""
        from ci_modelcache.cache.modelcache import ModelCache  # noqa: PLC0415  # as above

        return ModelCache(self._store(), retry=self.retry)

    def cache_to_fill(self) -> ModelCache:
        """The store, ready to be written by a command that exists to do so; raises `ConfigError` when the mode forbids it."""
        from ci_modelcache.verbs.initialise import initialise  # noqa: PLC0415  # as above

        if not self.may_save:
            msg = f"this command writes to the store, and the mode is {self.config.mode}"
            raise ConfigError(msg, hint=f"the mode comes from: {self.config.origins['mode']}; give --mode read-write")
        cache = self.cache()
        initialise(cache)
        return cache

    def _store(self) -> Store:
        from ci_modelcache.stores.empty import EmptyStore  # noqa: PLC0415  # as above
        from ci_modelcache.stores.locations import open_store  # noqa: PLC0415  # as above

        config = self.config
        if config.mode is Mode.OFF:
            return EmptyStore()
        return open_store(
            config.store,
            # The default store is nobody's typing error: reading it before anything was saved is a miss.
            create=self.may_save or config.origins["store"].rank is Rank.DEFAULT,
            endpoint_url=config.endpoint_url,
            region=config.region,
            ca_bundle=None if config.store_ca_bundle is None else str(config.store_ca_bundle),
            retry=self.retry,
        )

    def layout(self, ref: ModelRef, folder: Path | None) -> Layout:
        """Where *ref* goes: into *folder* itself, or for None into the Hub cache."""
        from ci_modelcache.layouts.hub_cache import HubCacheLayout  # noqa: PLC0415  # as above
        from ci_modelcache.layouts.plain import PlainLayout  # noqa: PLC0415  # as above

        if folder is None:
            return HubCacheLayout(self.config.hub_cache, ref.repo, ref.type)
        return PlainLayout(folder, normalize_mtime=self.config.mtime)
