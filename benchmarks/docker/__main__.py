"""
``python -m benchmarks.docker [--quick] [--only NAME]... [--json FILE]``: how long each way takes, and what it weighs.

The whole of it takes some minutes, and writes its table to ``benchmarks/results/docker.md``, the picture to ``docker.svg`` and
the figures to ``docker.json`` beside it; a part of it only prints. The JSON document, of format 1::

    {"format": 1, "at": "2026-01-31", "quick": false, "machine": {...}, "size": 300000000,
     "ways": [{"name", "says", "ours", "runs": [the fields of ways.Run]}]}

Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict
from rich.console import Console

from benchmarks.docker.tables import LEGEND, figures_table, markdown, picture
from benchmarks.docker.ways import WAYS, measured
from benchmarks.docker.world import MB, must, world
from benchmarks.mirrors.__main__ import machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.docker.ways import Run, Way

FORMAT = 1
RESULTS = Path(__file__).parent.parent / "results"
_WIDE = 180
_SIZE, _QUICK_SIZE = 300 * MB, 12 * MB
_ROUNDS = 3


def main(given: Sequence[str]) -> int:
    """Measure, print and keep what *given* asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docker", description="Every way, in turns.")
    parser.add_argument("--only", action="append", metavar="NAME", choices=[way.name for way in WAYS])
    parser.add_argument("--quick", action="store_true", help="one round with a small model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every run to FILE")
    options = parser.parse_args(given)
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    chosen = [way for way in WAYS if way.name in (options.only or [way.name])]
    about, began = machine(), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        world(Path(folder), size=_QUICK_SIZE if options.quick else _SIZE) as made,
    ):
        about["engine"] = f"Docker {must(made.engine.docker('version', '--format', '{{.Server.Version}}')).strip()}"
        results: list[tuple[Way, list[Run]]] = [(way, []) for way in chosen]
        for number in range(1 if options.quick else _ROUNDS):
            # In another order each time: what the machine does besides meets all of them.
            for way, runs in results if number % 2 == 0 else reversed(results):
                print(f"{time.monotonic() - began:4.0f} s  {way.says} ...", file=sys.stderr, flush=True)
                runs.append(measured(way, made))
        size = made.size
    about["took"] = f"{time.monotonic() - began:.0f} s"
    console.print(figures_table(results, size, title=", ".join(f"{name}: {value}" for name, value in about.items())))
    for line in LEGEND:
        console.print(line)
    plain = json.dumps(document(results, about, size=size, quick=options.quick), indent=1) + "\n"
    if options.json is not None:
        options.json.write_text(plain)
    if not options.quick and options.only is None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "docker.json").write_text(plain)
        (RESULTS / "docker.md").write_text(
            markdown(results, size, machine=about, command="python -m benchmarks.docker")
        )
        (RESULTS / "docker.svg").write_bytes(picture(results, size, machine=about))
    return 0


def document(
    results: Sequence[tuple[Way, Sequence[Run]]], about: dict[str, object], *, size: int, quick: bool
) -> dict[str, Any]:
    """What the JSON file has."""
    ways = [
        {"name": way.name, "says": way.says, "ours": way.ours, "runs": [asdict(run) for run in runs]}
        for way, runs in results
    ]
    at = time.strftime("%Y-%m-%d", time.gmtime())
    return {"format": FORMAT, "at": at, "quick": quick, "machine": about, "size": size, "ways": ways}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
