"""Summing the cotangents that reach one value from its several uses.

Comes in: two cotangents of one shape and dtype, or of the results of one call that has several.
Goes out: their sum. Guaranteed: the order is fixed (the use that was recorded last comes first), so
that every way of asking for a gradient gives the same bits.
"""

from __future__ import annotations

from typing import Any

from avalon.ops import add


class Parts(dict[int, Any]):
    """The cotangents of a call of several results: of those by number that have one."""


def accumulate(total: Any, cotangent: Any) -> Any:
    """The sum of what has arrived so far (None at first) and one more cotangent (None: nothing)."""
    if cotangent is None:
        return total
    if total is None:
        return cotangent
    if isinstance(total, Parts):
        both = Parts(total)
        for index, part in cotangent.items():
            both[index] = accumulate(both.get(index), part)
        return both
    return add(total, cotangent)
