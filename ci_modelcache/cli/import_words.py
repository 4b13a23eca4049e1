"""The only module that puts into words what `import` did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.cli.reports import count
from ci_modelcache.transfer.disk import format_bytes

if TYPE_CHECKING:
    from ci_modelcache.verbs.import_archive import ImportReport
    from ci_modelcache.verbs.split import StagedReport

_SOME = 20


def imported(report: ImportReport) -> str:
    """What came from an archive, for stderr."""
    where = "stdin" if report.path == "-" else report.path
    what = f"{count(len(report.models), 'model')}, {count(report.files, 'file')}, {format_bytes(report.size)}"
    new = f"{format_bytes(report.bytes_uploaded)} of it new"
    return f"imported from {where} ({report.format}) into {report.store}: {what}, {new}, in {report.seconds:.1f} s"


def kept(report: StagedReport) -> str:
    """What is here and what is missing after one part, for stderr."""
    rest = len(report.missing) - _SOME
    missing = ", ".join(map(str, report.missing[:_SOME])) + (f" and {rest} more" if rest > 0 else "")
    return f"part {report.part} of {report.parts} is kept ({format_bytes(report.size)}); missing: {missing}"
