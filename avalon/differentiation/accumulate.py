"""Summing the cotangents that reach one value from its several uses.

Comes in: two cotangents of one shape and dtype. Goes out: their sum. Guaranteed: the order is fixed
(the use that was recorded last comes first), so that every way of asking for a gradient gives the
same bits.
"""

from __future__ import annotations

from typing import Any

from avalon.ops import add


def accumulate(total: Any, cotangent: Any) -> Any:
    """The sum of what has arrived so far (None at first) and one more cotangent (None: nothing)."""
    if cotangent is None:
        return total
    return cotangent if total is None else add(total, cotangent)
