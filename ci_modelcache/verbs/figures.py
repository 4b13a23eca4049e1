"""The only module that says what the figures of a report mean: each is defined by the sentence below it."""

from __future__ import annotations

from attrs import frozen


@frozen
class Spread:
    """How single measurements lie; the percentiles are null when there are none."""

    count: int
    """How many there are."""
    p5: float | None
    """5 of 100 are below."""
    p25: float | None
    """25 of 100 are below."""
    p50: float | None
    """The median: half of them are below."""
    p75: float | None
    """75 of 100 are below."""
    p95: float | None
    """95 of 100 are below."""


@frozen
class Bin:
    """One stretch of time in which an attempt was under way."""

    at: float
    """Its begin, in seconds since 1970."""
    received: dict[str, float]
    """Bytes by source; an attempt's bytes are spread evenly over its time."""


@frozen
class Timeline:
    """When bytes came; time in which nothing was under way has no bins."""

    width: float
    """Seconds of one bin."""
    bins: tuple[Bin, ...]
    """The stretches of time, in their order."""


@frozen
class SourceStats:
    """One source of bytes, or all of them together; sizes in bytes, times in seconds, speeds in bytes a second."""

    source: str
    """The source; `all` in `total`."""
    attempts: int
    """Requests, those for metadata too."""
    failures: int
    """Attempts whose cause is not `ok`."""
    error_rate: float | None
    """`failures` as a share of `attempts`, 0 to 1; null without attempts."""
    causes: dict[str, int]
    """Failures by cause."""
    cause_rates: dict[str, float]
    """Failures by cause, each as a share of `attempts`."""
    received: int
    """Bytes of files that came over the network, those of failed attempts too."""
    used: int
    """Bytes of proven files that came from here."""
    seconds: float
    """Time of the attempts for files, added up; parallel ones each count."""
    speed: float | None
    """Mean: `received` divided by `seconds`, so that of one connection."""
    speeds: Spread
    """Of single downloads that took a second or brought a megabyte."""
    slow: int
    """How many of `speeds` are under `slow_below`."""
    slow_share: float | None
    """`slow` as a share of `speeds.count`, 0 to 1."""
    ttfb: Spread
    """Time to the first byte of an attempt for a file."""
    waits: int
    """Pauses on behalf of this source, such as those that it asked for with a 429."""
    waited: float
    """How long they were together."""
    decisions: int
    """How often it was chosen, left or barred."""


@frozen
class SnapshotStats:
    """What became of whole snapshots; sizes in bytes."""

    local: int
    """Complete at their destination already."""
    hit: int
    """Taken from the store."""
    miss: int
    """Taken from upstream."""
    failed: dict[str, int]
    """Given up, by the class of the error."""
    local_size: int
    """Size of the local ones."""
    hit_size: int
    """Size of the hits."""
    miss_size: int
    """Size of the misses."""
    hit_ratio: float | None
    """`local` and `hit` as a share of `local`, `hit` and `miss`, 0 to 1."""
    hit_ratio_bytes: float | None
    """The same of their sizes."""
    received: int
    """Bytes that came over a network for them."""
    seconds: float
    """Time of the snapshots for which bytes came over a network."""
    speed: float | None
    """`received` divided by `seconds`: with all connections, and all waiting."""


@frozen
class TokenStats:
    """Tokens for hosts that want one."""

    requests: int
    """How often a provider was asked; what the cache had is not counted."""
    failures: int
    """Requests that brought no token."""
    failure_rate: float | None
    """`failures` as a share of `requests`, 0 to 1."""
    causes: dict[str, int]
    """Failures by cause."""
    cached: int
    """How often the cache had one."""
    seconds: float
    """Time of the requests, added up."""


@frozen
class StatsReport:
    """What some reports tell; sizes in bytes, times in seconds, speeds in bytes a second, shares from 0 to 1."""

    reports: tuple[str, ...]
    """The files that were read."""
    runs: dict[str, int]
    """How many runs they have, by command."""
    since: float | None
    """The time of the first line, in seconds since 1970."""
    until: float | None
    """The time of the last line, in seconds since 1970."""
    events: int
    """Lines that were understood."""
    slow_below: int
    """The speed under which a download is slow."""
    total: SourceStats
    """All sources together."""
    sources: tuple[SourceStats, ...]
    """Each source, the one that brought the most first."""
    files: int
    """Files that somebody was asked for."""
    proven: int
    """Those of them that came, and were proven."""
    retries: int
    """Attempts for bytes that an attempt of the same run before had failed to bring."""
    retry_rate: float | None
    """Retries per 100 files."""
    snapshots: SnapshotStats
    """What became of whole snapshots."""
    tokens: TokenStats
    """Tokens for hosts that want one."""
    timeline: Timeline
    """When the bytes came."""
    torn: tuple[str, ...]
    """Lines that a killed process or a full disk left unfinished, as `file:line`; the first 20 of them."""
    torn_count: int
    """How many such lines there are."""
    skipped: dict[str, int]
    """Events and fields that only a later version knows, and how often they came."""
