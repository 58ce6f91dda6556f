"""Stretches of code, and the handles that open loops and branches give to those who fill them.

Comes in: carried values. Goes out: `Loop`, whose `results` are right once the loop is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from avalon.codegen.values import Pointer, Value


@dataclass(slots=True)
class Region:
    """A stretch of code with one entry: the function, a loop's body or a branch's. `body` takes new
    instructions; while an inner loop is open it is the place just in front of that loop.
    """

    is_loop: bool
    body: list[str]
    seen: dict[str, Value | Pointer] = field(default_factory=dict)


class Loop:
    """An open loop. `index` counts; `values` are the carried values of this round; `next` hands
    over those of the following round; after the loop `results` holds the last.
    """

    def __init__(self, index: Value, values: tuple[Value, ...]) -> None:
        self.index = index
        self.values = values
        self.results = values

    def next(self, *values: Value) -> None:
        """Hand over the carried values for the next round."""
        if len(values) != len(self.values):
            raise ValueError(f"[loop] carries {len(self.values)} values, not {len(values)}")
        self.results = values


class WhileLoop(Loop):
    """An open loop without a counter; `check` must be called once, in front of the body."""

    def __init__(
        self, index: Value, values: tuple[Value, ...], leave_unless: Callable[[Value], None]
    ) -> None:
        super().__init__(index, values)
        self._leave_unless = leave_unless

    def check(self, condition: Value) -> None:
        """Go on only while `condition` (a scalar bool) is true."""
        self._leave_unless(condition)
