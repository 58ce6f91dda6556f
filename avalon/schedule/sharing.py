"""What it costs to share a program among sizes: contractions in kernels that know no size.

Comes in: a graph in which some extents are symbols. Goes out: the multiplications and additions
that would be slower than in a program for one size. Guaranteed: nothing; this only helps to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from avalon.graph.body import every_node
from avalon.graph.graph import Graph
from avalon.graph.node import Call
from avalon.schedule.pull import lowering_of
from avalon.size import hint, is_open


def slowed_flops(graph: Graph) -> int:
    """How much of the graph's arithmetic is in contractions of which more than one kind of extent
    is open: what is multiplied by rows of unknown number is mostly as fast as if it were known.
    """
    return sum(
        hint(_flops(node))
        for node in every_node(graph)
        if isinstance(node, Call)
        and lowering_of(node.primitive) in ("contract", "convolve")
        and sum(any(map(is_open, kind)) for kind in _kinds(node)) > 1
    )


def _kinds(node: Call) -> Sequence[Sequence[Any]]:
    """The extents of rows, of what is summed, of columns, and of positions and taps."""
    first, second = node.operands
    if lowering_of(node.primitive) == "contract":
        return first.shape[:2], first.shape[2:], second.shape[2:]
    rows, channels, depth = first.shape[:2], second.shape[1:2], first.shape[2:3]
    return rows, depth, channels, (*first.shape[3:], *second.shape[3:], *node.shape[3:])


def _flops(node: Call) -> Any:
    first, second = node.operands
    if lowering_of(node.primitive) == "contract":
        return 2 * prod(node.shape) * first.shape[2]
    return 2 * prod(node.shape) * prod(second.shape[2:])
