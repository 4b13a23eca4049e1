"""What was measured, as values, and as the JSON that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import asdict, field, frozen

from benchmarks.mirrors.entries import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MIB = 1 << 20
FORMAT = 1


@frozen
class Sample:
    """One run: seconds of the whole process, its CPU seconds, and the peak of its memory in bytes (of its largest process)."""

    seconds: float
    cpu: float
    memory: int
    disk: int | None = None
    """Bytes that its file system held more at the fullest moment."""
    store_cpu: float = 0.0
    """CPU seconds of the server meanwhile."""
    others_cpu: float = 0.0
    """CPU seconds of everything else on the machine: relays, Hubs, and whoever disturbs."""


@frozen
class Row:
    """All runs of one way to do it, by us or by a peer, that moved *size* bytes."""

    label: str
    ours: bool
    size: int
    samples: tuple[Sample, ...]

    def spread(self, figure: str) -> Spread:
        """Median, least and most of the field *figure* of all runs."""
        return Spread.of(getattr(sample, figure) for sample in self.samples)

    def median(self, figure: str = "seconds") -> float:
        """The median of the field *figure*."""
        return self.spread(figure).median


@frozen
class Verdict:
    """Whether a number that the design names was reached."""

    met: bool
    says: str


@frozen
class Result:
    """What came of a benchmark; *against* is the label of the row that others are compared with."""

    name: str
    says: str
    where: str
    against: str
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    machine: Mapping[str, object] = field(factory=dict)
    """On what it was measured, and when."""

    def row(self, label: str) -> Row | None:
        """The row of that *label*, if it was measured."""
        return next((row for row in self.rows if row.label == label), None)


def document(results: Iterable[Result]) -> dict[str, Any]:
    """What the JSON file has."""
    return {"format": FORMAT, "benchmarks": [asdict(result) for result in results]}


def from_document(plain: Mapping[str, Any]) -> list[Result]:
    """The results in a document of `document`."""
    if plain["format"] != FORMAT:
        msg = f"figures of format {FORMAT} are wanted, and these have {plain['format']}"
        raise ValueError(msg)
    return [
        Result(
            **{
                **each,
                "rows": tuple(
                    Row(**{**row, "samples": tuple(Sample(**sample) for sample in row["samples"])})
                    for row in each["rows"]
                ),
                "verdicts": tuple(Verdict(**verdict) for verdict in each["verdicts"]),
                "notes": tuple(each["notes"]),
            }
        )
        for each in plain["benchmarks"]
    ]


# --- what is promised


def faster(rows: Sequence[Row], ours: str, theirs: Sequence[str], most: float) -> list[Verdict]:
    """Whether *ours* took at most *most* times the seconds of the fastest of *theirs*; nothing where one was not measured."""
    known = {row.label: row.median() for row in rows}
    raced = {label: known[label] for label in theirs if label in known}
    if ours not in known or not raced:
        return []
    peer = min(raced, key=lambda label: raced[label])
    ratio = known[ours] / raced[peer]
    says = f"{ours}: {known[ours]:.2f} s is {ratio:.2f}x of {peer} ({raced[peer]:.2f} s), at most {most:.2f}x"
    return [Verdict(ratio <= most, says)]


def below(rows: Sequence[Row], label: str, figure: str, most: float, *, unit: tuple[float, str]) -> list[Verdict]:
    """Whether the worst *figure* of *label* is at most *most*; *unit* is what it is told in, and its name."""
    found = next((row for row in rows if row.label == label), None)
    if found is None:
        return []
    worst = found.median(figure) if figure == "seconds" else found.spread(figure).most
    size, name = unit
    places = 0 if most >= 100 * size else 2
    says = f"{label}: {worst / size:.{places}f} {name}, at most {most / size:.{places}f} {name}"
    return [Verdict(worst <= most, says)]
