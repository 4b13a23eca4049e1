"""The only module that makes upstreams of settings: the authority, the mirrors, their tokens, and what is remembered of them."""

from __future__ import annotations

import logging
from functools import cached_property, partial
from typing import TYPE_CHECKING

from ci_modelcache.errors import ModelCacheError
from ci_modelcache.model.mirror import Kind
from ci_modelcache.sources.files import HttpFolder
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.modelscope import ModelScope
from ci_modelcache.sources.origin import Origin
from ci_modelcache.sources.router import Router, Source
from ci_modelcache.sources.sparing import Sparing
from ci_modelcache.sources.standing import Standing
from ci_modelcache.sources.token import StaticToken
from ci_modelcache.sources.tokens.parse import Means, given_source, token_source
from ci_modelcache.sources.tokens.vault import open_vault
from ci_modelcache.transfer.budget import Budget
from ci_modelcache.transfer.refusals import Refusals
from ci_modelcache.transfer.throttle import Throttle
from ci_modelcache.verbs.mirrors import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.config import Config
    from ci_modelcache.model.hidden import Secrets
    from ci_modelcache.model.mirror import Mirror
    from ci_modelcache.sources.protocol import ByteSource, Upstream
    from ci_modelcache.sources.token import TokenSource
    from ci_modelcache.sources.tokens.vault import Vault
    from ci_modelcache.stores.protocol import Store
    from ci_modelcache.stores.s3_role import AssumedRole
    from ci_modelcache.transfer.events import Events
    from ci_modelcache.transfer.retry import RetryPolicy

_log = logging.getLogger(__name__)

TOKENS = "tokens"
"""The folder of the state in which tokens are kept."""
_LAST = 1_000_000
"""The priority of the authority as a source of bytes, unless it is named among the mirrors."""


class Upstreams:
    """
    Everybody that *config* lets one command ask, with the patience of *retry*.

    *all_together* slows all transfers down to a limit that they share. *forced*: nothing that is remembered of upstream counts. *trusting*:
    mirrors that the settings trust may be believed about what a revision means; a store or lock is not made by their word.
    """

    def __init__(
        self,
        config: Config,
        *,
        secrets: Secrets,
        retry: RetryPolicy,
        events: Events,
        all_together: Throttle,
        forced: bool = False,
        trusting: bool = False,
    ) -> None:
        self._config = config
        self._secrets = secrets
        self._retry = retry
        self._events = events
        self._all_together = all_together
        self._forced = forced
        self._trusting = trusting
        self._tokens: dict[Origin, TokenSource | None] = {}
        self.standing = Standing(config.state / "mirrors.json")

    @cached_property
    def session(self) -> HttpSession:
        """The connections to everybody who speaks HTTP and is no store."""
        budget = Budget(self._config.state / "budget")
        return HttpSession(ca_bundle=self._config.hub_ca_bundle, secrets=self._secrets, budget=budget)

    @cached_property
    def authority(self) -> Upstream:
        """Who says what a revision means; it is not asked again at once for what it has not."""
        config = self._config
        refusals = Refusals(config.state / "refusals", believe=config.revision_ttl > 0 and not self._forced)
        # What one user is refused, another may have.
        return Sparing(self._hub(config.endpoint), refusals, secret="\n".join(config.secrets))

    @cached_property
    def mirrors(self) -> Mirrors:
        """The authority's word, and the bytes of whoever is best."""
        known = self.standing.load()
        sources: list[Source] = []
        throttles = {"": self._all_together}
        trusted: list[Upstream] = []
        for candidate, mirror in self._candidates():
            source = candidate.source
            if source is None:
                # One of several, such as a folder that is not mounted here: the others have what it has.
                _log.warning("the mirror %s is left out: %s", candidate.url, candidate.problem)
                continue
            sources.append(Source(source, candidate.priority))
            if source.url in known:
                sources[-1].health = known[source.url]
            if mirror is not None and mirror.max_rate is not None:
                throttles[source.url] = Throttle(mirror.max_rate)
            if isinstance(source, HubEndpoint) and mirror is not None and self._is_trusted(mirror):
                trusted.append(source)
        router = Router(sources, connections=self._config.workers, events=self._events)
        return Mirrors(self.authority, router, retry=self._retry, trusted=trusted, throttles=throttles)

    def candidates(self) -> Iterator[Candidate]:
        """Every source that is configured, as `mirrors` has them, but also those that cannot be used, and why."""
        return (candidate for candidate, _ in self._candidates())

    def remember(self) -> None:
        """Keep how the sources did for the next run, if any was made."""
        if "mirrors" in vars(self):
            router = self.mirrors.router
            self.standing.save({source.url: source.health for source in router.sources if source.health.attempts})

    def _is_trusted(self, mirror: Mirror) -> bool:
        return self._trusting and (mirror.trust or self._config.trust_mirror_metadata)

    def _candidates(self) -> Iterator[tuple[Candidate, Mirror | None]]:
        """Each mirror as a candidate, in their order, each URL once; the authority among them, or else last."""
        own, named = self.authority.url, set[str]()
        for mirror in self._config.mirrors:
            kind, priority = str(mirror.kind), mirror.priority
            try:
                source = self._source(mirror)
            except ModelCacheError as error:
                yield Candidate(mirror.url, kind, priority, mirror.url == own, None, error.message), mirror
                continue
            if source.url not in named:
                named.add(source.url)
                yield Candidate(source.url, kind, priority, source.url == own, source), mirror
        if own not in named:
            last = self._hub(self._config.endpoint, strict_ranges=bool(named))
            yield Candidate(own, str(Kind.HUB), _LAST, authority=True, source=last), None

    def _source(self, mirror: Mirror) -> ByteSource:
        strict = len(self._config.mirrors) > 0
        if mirror.kind is Kind.HUB:
            return self._hub(mirror.address, strict_ranges=strict)
        if mirror.kind is Kind.STORE:
            return self._stored(mirror)
        make = HttpFolder if mirror.kind is Kind.FILES else ModelScope
        return make(
            mirror.address,
            session=self.session,
            deadline=self._retry.deadline,
            token=self.tokens_for(mirror.address),
            strict_ranges=strict,
        )

    def _hub(self, url: str, *, strict_ranges: bool = False) -> HubEndpoint:
        token = self.tokens_for(url)
        return HubEndpoint(url, session=self.session, token=token, retry=self._retry, strict_ranges=strict_ranges)

    def _stored(self, mirror: Mirror) -> ByteSource:
        from ci_modelcache.cache.blobsource import StoreSource  # noqa: PLC0415  # botocore is slow to import
        from ci_modelcache.cache.modelcache import ModelCache  # noqa: PLC0415  # as above

        return StoreSource(
            ModelCache(self._store(mirror), retry=self._retry), host=Origin.of(self._config.endpoint).authority
        )

    def _store(self, mirror: Mirror) -> Store:
        from ci_modelcache.stores.locations import open_store  # noqa: PLC0415  # as above

        config = self._config
        return open_store(
            mirror.url,
            create=False,
            endpoint_url=config.endpoint_url,
            region=mirror.region or config.region,
            ca_bundle=None if config.store_ca_bundle is None else str(config.store_ca_bundle),
            retry=self._retry,
            role=partial(self.role, needed=False),
        )

    def role(self, *, needed: bool) -> AssumedRole | None:
        """The role that the settings name, in which stores of S3 are asked; as `role_of_job` when nothing says who this job is."""
        from ci_modelcache.cli.identity import role_of_job  # noqa: PLC0415  # as above

        config = self._config
        if config.role_to_assume is None:
            return None
        deadline = self._retry.deadline
        return role_of_job(
            config.role_to_assume, environ=config.variables, session=self.session, deadline=deadline, needed=needed
        )

    # --- tokens

    @cached_property
    def vault(self) -> Vault:
        """Where tokens outlast this process."""
        return open_vault(self._config.state / TOKENS)

    def tokens_for(self, url: str) -> TokenSource | None:
        """Where the token for the origin of *url* comes from, one source for all who ask; None when nobody named one."""
        asked = Origin.of(url)
        if asked not in self._tokens:
            self._tokens[asked] = self._token_source(asked)
        return self._tokens[asked]

    def _token_source(self, asked: Origin) -> TokenSource | None:
        config = self._config
        found = next((one for one in config.token_sources if Origin.of(one.address) == asked), None)
        if found is None:
            if config.token is None or asked != Origin.of(config.endpoint):
                return None
            return StaticToken(config.token)
        locks = config.state / TOKENS / "locks"
        means = Means(self.session, lambda: self.vault, locks, environ=config.variables, events=self._events)
        if isinstance(found.provider, str):
            return token_source(found.provider, host=found.host, means=means)
        return given_source(found.provider, host=found.host, origin=str(found.origin), means=means)
