"""The only module that compares a destination with the files of a snapshot and brings what is missing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ci_modelcache.model.listing import ListedFile
from ci_modelcache.transfer.adapting import Adapting
from ci_modelcache.transfer.connections import bring_all
from ci_modelcache.transfer.disk import require_space, same_disk
from ci_modelcache.verbs.comparing import compare
from ci_modelcache.verbs.deliver import Delivery
from ci_modelcache.verbs.errands import errand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.verbs.deliver import Route


@frozen
class Plan:
    """What is to be brought, largest first; *replaced* are the paths where something else lies now."""

    missing: tuple[ListedFile, ...]
    replaced: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes to bring."""
        return sum(file.size for file in self.missing)


@frozen
class Placement:
    """What was brought."""

    delivered: tuple[Delivery, ...] = ()
    replaced: tuple[str, ...] = ()

    def bytes_by(self, *ways: str) -> int:
        """Bytes that came in one of these *ways* (`Delivery.how`)."""
        return sum(delivery.size for delivery in self.delivered if delivery.how in ways)

    @property
    def near(self) -> int:
        """Bytes that came from a tier."""
        return sum(delivery.size for delivery in self.delivered if delivery.near)

    @property
    def downloaded(self) -> int:
        """Bytes that came over a network."""
        return sum(delivery.received for delivery in self.delivered)

    @property
    def sources(self) -> dict[str, int]:
        """Bytes by the URL of the upstream that sent them."""
        found: Counter[str] = Counter()
        for delivery in self.delivered:
            found.update(delivery.sources)
        return dict(found)

    @property
    def replicas(self) -> dict[str, int]:
        """Bytes by the URL of the replica that had them."""
        found: Counter[str] = Counter()
        for delivery in self.delivered:
            if delivery.replica:
                found[delivery.replica] += delivery.size
        return dict(found)

    @property
    def mended(self) -> tuple[str, ...]:
        """Paths that the store should have had right, and upstream gave, sorted."""
        return tuple(sorted(delivery.path for delivery in self.delivered if delivery.mended))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why some of that is wrong in the store still."""
        return tuple(sorted(delivery.warning for delivery in self.delivered if delivery.warning))


def plan(files: Iterable[ListedFile], route: Route) -> Plan:
    """Compare the destination with *files*: by receipts where nothing changed since, by hashing otherwise. By force all are brought."""
    missing = [
        (file, state) for file, state in compare(files, route, pinned=route.pinned) if route.force or not state.good
    ]
    return Plan(
        missing=tuple(sorted((file for file, _ in missing), key=lambda file: file.size, reverse=True)),
        replaced=tuple(sorted(file.path for file, state in missing if state.status == "different")),
    )


def carry_out(wanted: Plan, route: Route, *, is_stored: bool = True) -> Placement:
    """
    Bring all that *wanted* names; raises `NoSpace` before the first byte when it cannot fit.

    *is_stored*: it is of a snapshot that the store has (`errands.errand`).
    """
    step, layout = route.step, route.layout
    lacking = route.near.lacking(wanted.missing, layout)
    if not is_stored or not by_links(route):
        require_space(layout.root, sum(file.size for file in lacking))
    route = evolve(route, near=route.near.room(lacking, layout))
    delivered: list[Delivery] = []
    doing = f"restoring {route.ref.repo}"
    step.progress.start(doing, wanted.size)
    try:
        bring_all(
            (errand(file, route, delivered.append, is_stored=is_stored) for file in wanted.missing),
            retry=step.retry,
            progress=step.progress,
            adapting=step.adapting() if is_stored else Adapting(step.workers, fixed=True),
            doing=doing,
        )
    finally:
        step.progress.finish()
    return Placement(tuple(delivered), wanted.replaced)


def by_links(route: Route) -> bool:
    """Whether hard links will do, which need no room: the layout allows them and the store is on its disk."""
    return route.layout.linkable and any(same_disk(folder, route.layout.root) for folder in route.cache.folders)
