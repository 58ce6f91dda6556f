"""A count of what Python does to objects that a replayed step has looked at.

Goes out: `epoch`, whose `count` grows whenever something that exists is rebound: a cell's value or
memory, a tensor's cell, gradient, history or `requires_grad`, a field of a `Module`. Guaranteed:
while the count stays, a replay that looked at these once need not look again. New objects do not
count: nothing has looked at them yet.
"""

from __future__ import annotations


class Epoch:
    """The count; `epoch.count += 1` belongs to every such assignment."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


epoch = Epoch()
