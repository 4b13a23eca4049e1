"""
How long the command line takes to say something: the whole process, beside peers that people know.

Run with the Python that has ci-modelcache: ``.venv/bin/python benchmarks/startup.py [RUNS]``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 20
TARGET = 0.150
"""Seconds that `ci-modelcache --help` may take."""

OURS = "ci-modelcache --help"
PROCESSES = {
    "python -c pass": ("-c", "pass"),
    OURS: ("-m", "ci_modelcache", "--help"),
    "ci-modelcache --version": ("-m", "ci_modelcache", "--version"),
    "ci-modelcache restore --help": ("-m", "ci_modelcache", "restore", "--help"),
    "pip --version": ("-m", "pip", "--version"),
}


def seconds(arguments: tuple[str, ...]) -> float:
    """How long this Python takes with *arguments*, from the start of the process to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: S603  # the table above
    return time.perf_counter() - start


def main(runs: int) -> int:
    """Print the table; 1 when the target is missed."""
    taken: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(runs + 1):  # in turn, so that a busy moment hits all of them; the first fills the caches
        for name, arguments in PROCESSES.items():
            taken[name].append(seconds(arguments))
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    bare = medians["python -c pass"]
    width = max(map(len, PROCESSES))
    print(f"median of {runs} runs, Python {sys.version.split()[0]}")
    print(f"{'':{width}}  {'whole':>8}  {'own':>8}  {'best':>8}")
    for name, median in medians.items():
        best = min(taken[name][1:])
        print(f"{name:{width}}  {median * 1000:5.0f} ms  {(median - bare) * 1000:5.0f} ms  {best * 1000:5.0f} ms")
    met = medians[OURS] <= TARGET
    print(f"target for {OURS}: {TARGET * 1000:.0f} ms, {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))
