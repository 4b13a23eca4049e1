"""A source that answers wrongly about ranges has one more chance, and not for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import IntegrityError
from ci_modelcache.sources.health import Cause, Health
from tests.parts.hub_faults import OverLong, Truncated

if TYPE_CHECKING:
    from ci_modelcache.demo.exchange import Fault
    from ci_modelcache.demo.hub import LoopbackHub
    from tests.parts.verbs import Bench

LARGE = bytes(5 * 1024 * 1024)
"""More than comes in one part."""


@pytest.mark.parametrize("fault", [OverLong(extra=1000), Truncated(keep=1000)], ids=["over-long", "truncated"])
def test_the_only_hub_that_always_answers_wrongly_is_asked_a_few_times(
    bench: Bench, hub: LoopbackHub, fault: Fault
) -> None:
    hub.add_repo("acme/large", {"main": {"model.safetensors": LARGE}})
    hub.faults.append(fault)
    with pytest.raises(IntegrityError, match=hub.url):
        bench.fetch("acme/large")
    assert len(hub.requests(method="GET", within="/resolve/")) <= 4


def test_a_source_that_fails_for_ever_is_barred_for_a_quarter_of_an_hour_at_most() -> None:
    health = Health()
    for _ in range(3000):
        health.failed(Cause.WRONG_BYTES, now=0.0)
    assert health.barred_until == 900.0
