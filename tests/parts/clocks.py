"""Time that passes only when somebody sleeps."""

from __future__ import annotations

from ci_modelcache.errors import ConfigError


class Clock:
    """A monotonic clock and the sleep that moves it; *slept* lists the pauses in seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if not 0 <= seconds < 1e6:
            msg = f"nobody sleeps for {seconds} seconds"
            raise ConfigError(msg)
        self.slept.append(seconds)
        self.now += seconds
