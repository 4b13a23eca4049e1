"""The only module that says how long jobs which want the same wait for each other."""

from __future__ import annotations

from attrs import frozen


@frozen
class Pace:
    """
    How leases go, in seconds: a holder says every *beat* that it lives, who was silent for *dead* counts as dead.

    Others look about every *poll*. Who wrote where another may have done so at the same moment looks after *settle* who is left.
    """

    beat: float = 10.0
    dead: float = 45.0
    poll: float = 2.0
    settle: float = 1.0
