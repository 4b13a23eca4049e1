"""The only module that compares a destination with a manifest and brings what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.model.manifest import FileEntry
from ci_modelcache.transfer.disk import require_space, same_disk
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.transfer.receipts import check_file
from ci_modelcache.verbs.deliver import UPSTREAM, Delivery, Route, deliver

if TYPE_CHECKING:
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.transfer.receipts import FileState


@frozen
class Plan:
    """What is to be brought, largest first; *replaced* are the paths where something else lies now."""

    missing: tuple[FileEntry, ...]
    replaced: tuple[str, ...]


@frozen
class Placement:
    """What was brought."""

    delivered: tuple[Delivery, ...] = ()
    replaced: tuple[str, ...] = ()

    def bytes_by(self, *ways: str) -> int:
        """Bytes that came in one of these *ways* (`Delivery.how`)."""
        return sum(delivery.size for delivery in self.delivered if delivery.how in ways)

    @property
    def mended(self) -> tuple[str, ...]:
        """Paths that the store should have had and upstream had to give, sorted."""
        return tuple(sorted(d.path for d in self.delivered if d.source == UPSTREAM))


def plan(manifest: Manifest, route: Route) -> Plan:
    """Compare the destination with *manifest*: by receipts where nothing changed since, by hashing otherwise."""
    unique = {route.layout.content(file): file for file in manifest.files}
    states: dict[str, FileState] = {}

    def check(file: FileEntry) -> None:
        states[file.path] = check_file(
            route.layout.content(file), file.expected, route.receipts, links=route.layout.linkable
        )

    step = route.step
    for_each(unique.values(), check, workers=step.workers, deadline=step.deadline, doing="looking at what is there")
    missing = [file for file in unique.values() if not states[file.path].good]
    return Plan(
        missing=tuple(sorted(missing, key=lambda file: file.size, reverse=True)),
        replaced=tuple(sorted(file.path for file in missing if states[file.path].status == "different")),
    )


def carry_out(wanted: Plan, route: Route) -> Placement:
    """Bring all that *wanted* names; raises `NoSpace` before the first byte when it cannot fit."""
    step, total = route.step, sum(file.size for file in wanted.missing)
    if not _by_links(route):
        require_space(route.layout.root, total)
    delivered: list[Delivery] = []

    def bring(file: FileEntry) -> None:
        delivered.append(deliver(file, route))

    doing = f"restoring {route.ref.repo}"
    step.progress.start(doing, total)
    try:
        for_each(wanted.missing, bring, workers=step.workers, deadline=step.deadline, doing=doing)
    finally:
        step.progress.finish()
    return Placement(tuple(delivered), wanted.replaced)


def _by_links(route: Route) -> bool:
    """Whether hard links will do, which need no room: the layout allows them and the store is on its disk."""
    return route.layout.linkable and any(same_disk(folder, route.layout.root) for folder in route.cache.folders)
