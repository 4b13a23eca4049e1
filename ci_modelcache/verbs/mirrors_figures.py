"""The only module that says what the figures of a measurement of mirrors mean: each is defined by the sentence below it."""

from __future__ import annotations

from attrs import frozen

TOGETHER = "together"


@frozen
class SourceBench:
    """How the downloads from one source went, or from all together; sizes in bytes, times in seconds, speeds in bytes a second."""

    source: str
    """Its address; `together` for all of them."""
    downloads: int
    """How many were begun."""
    failed: int
    """How many of them did not bring the right bytes."""
    received: int
    """Bytes that came over the network, those of failed downloads too."""
    speed: float | None
    """Mean speed of whole downloads, with all their connections and pauses; null when none succeeded."""
    speed_p50: float | None
    """The median of these speeds."""
    speed_p95: float | None
    """95 of 100 of these speeds are lower."""
    speeds: tuple[float, ...]
    """The speed of every download that succeeded."""
    ttfb_p50: float | None
    """The median time from a request to its first byte."""
    ttfb_p95: float | None
    """95 of 100 of these times are shorter."""
    ttfbs: tuple[float, ...]
    """All of these times."""
    causes: dict[str, int]
    """What went wrong, by cause, also where another attempt mended it."""
    retries: int
    """Attempts that failed and were made up for by others."""
    retry_rate: float | None
    """Retries per 100 downloads."""
    sources: dict[str, int]
    """Bytes of the successful downloads, by who sent them."""
    error: str
    """Why a download failed, the last time; empty when none did."""


@frozen
class BenchReport:
    """What a measurement found; sizes in bytes, times in seconds, speeds in bytes a second."""

    ref: str
    """The model that was asked for."""
    commit: str
    """The commit that it means."""
    path: str
    """The file that was downloaded."""
    size: int
    """Bytes of each download: the whole file, or its beginning."""
    proof: str
    """`digest`: every download was proven; `agreement`: as that of a beginning is not known, all downloads were compared."""
    sources: tuple[SourceBench, ...]
    """Each source alone, in order of priority."""
    together: SourceBench
    """All of them together, chosen among by the router."""
    best: str | None
    """The fastest one alone, by the median; null when none brought the file."""
    utilisation: float | None
    """The median speed of all together as a share of the best one's alone: over 1 when mixing pays."""
    seconds: float
    """How long all of this took."""
    stopped: str
    """Why it ended early; empty when it did not."""
    exit_code: int
    """0, or that of the failure of all together, or 15 when the deadline passed."""
