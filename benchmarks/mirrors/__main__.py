"""
``python -m benchmarks.mirrors [--quick] [--only NAME]... [--json FILE]``: 0 when all is kept that is promised, 1 when not.

The whole of it takes some minutes, and writes its table to ``benchmarks/results/mirrors.md`` and its figures to
``mirrors.json`` beside it; a part of it only prints. The JSON document, of format 1::

    {"format": 1, "at": "2026-01-31", "quick": false, "machine": {...}, "cases": [
      {"name", "says", "size", "files", "hubs", "rounds",
       "entries": [{"label", "client", "mirrors", "connections", "runs": [the fields of entries.Run]}],
       "promises": [{"kept": true, "says"}]}]}

Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict
from rich.console import Console

from benchmarks.mirrors.cases import CASES
from benchmarks.mirrors.measure import Measured, measure
from benchmarks.mirrors.tables import LEGEND, figures_table, markdown, promises_table

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = 1
RESULTS = Path(__file__).parent.parent / "results"
_PEER = "2.4."
"""The version of huggingface_hub that the figures are about."""
_WIDE = 180


def main(given: Sequence[str]) -> int:
    """Measure, print and keep what *given* asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mirrors", description="Both clients through the same faults."
    )
    parser.add_argument("--only", action="append", metavar="NAME", choices=[case.name for case in CASES])
    parser.add_argument(
        "--quick", action="store_true", help="one round with small files, without what is mostly waiting"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every run to FILE")
    options = parser.parse_args(given)
    peer = importlib.metadata.version("huggingface_hub")
    if not peer.startswith(_PEER):
        parser.error(f"expected huggingface_hub {_PEER}x, found {peer}")
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    chosen = [case for case in CASES if case.name in (options.only or [case.name])]
    if options.quick:
        chosen = [case.quick for case in chosen if options.only or not case.slow]
    about, began = machine(), time.monotonic()
    results = []
    for case in chosen:
        print(f"{time.monotonic() - began:4.0f} s  {case.name}: {case.says} ...", file=sys.stderr, flush=True)
        results.append(measure(case))
    about["took"] = f"{time.monotonic() - began:.0f} s"
    console.print(figures_table(results, title=", ".join(f"{name}: {value}" for name, value in about.items())))
    for line in LEGEND:
        console.print(line)
    console.print(promises_table(results))
    plain = json.dumps(document(results, about, quick=options.quick), indent=1) + "\n"
    if options.json is not None:
        options.json.write_text(plain)
    if not options.quick and options.only is None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "mirrors.json").write_text(plain)
        page = markdown(results, machine=about, command="python -m benchmarks.mirrors")
        (RESULTS / "mirrors.md").write_text(page)
    return 0 if all(measured.met for measured in results) else 1


def machine() -> dict[str, object]:
    """On what it was measured, and against whom; nothing that tells whose machine it is."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory": f"{pages * page / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "ci-modelcache": importlib.metadata.version("ci-modelcache"),
        "huggingface_hub": importlib.metadata.version("huggingface_hub"),
        "load_before": f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} cores",
    }


def document(results: Sequence[Measured], about: dict[str, object], *, quick: bool) -> dict[str, Any]:
    """What the JSON file has."""
    cases = [
        {
            "name": measured.case.name,
            "says": measured.case.says,
            "size": measured.case.size,
            "files": measured.case.files,
            "hubs": len(measured.case.hubs),
            "rounds": measured.case.rounds,
            "entries": [
                {
                    "label": entry.label,
                    "client": entry.client,
                    "mirrors": len(entry.mirrors),
                    "connections": entry.connections,
                    "runs": [asdict(run) for run in measured.runs[entry.label]],
                }
                for entry in measured.case.entries
            ],
            "promises": [{"kept": verdict.met, "says": verdict.says} for verdict in measured.verdicts],
        }
        for measured in results
    ]
    at = time.strftime("%Y-%m-%d", time.gmtime())
    return {"format": FORMAT, "at": at, "quick": quick, "machine": about, "cases": cases}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
