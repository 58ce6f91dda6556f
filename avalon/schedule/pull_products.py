"""Products of few terms: computed where they are read, like elementwise calls.

Comes in: a `contract` whose sums have at most four products. Goes out: the expression of one
element. Guaranteed: the order of the contraction generator (`codegen.contraction_problem`): one
chain of fused multiply-adds from +0, added to +0.

A kernel of its own pays for packing, tiles and a barrier; so few products take less time than
storing what they give. An outer product, a layer of two inputs, and their gradients then join the
bias, the activation or the optimizer's step that follows them.
"""

from __future__ import annotations

from avalon import dtype as dtypes
from avalon.graph.node import Call
from avalon.schedule.index import constant
from avalon.schedule.loops import Apply, Expression, Number
from avalon.schedule.pull import Coordinates, Guards, Puller, lowering_of, rule
from avalon.size import few
from avalon.switches import declare

FUSE_PRODUCTS = declare(
    "fuse short products", "fusion", "products of few terms are computed where they are read"
)

MOST = 4  # rows of so many neighbours are read without a gather


def is_short_product(node: Call) -> bool:
    """Whether a call is such a product."""
    return (
        lowering_of(node.primitive) == "contract"
        and FUSE_PRODUCTS.on
        and node.dtype in (dtypes.float32, dtypes.float64)
        and few(node.operands[0].shape[2], MOST)
    )


@rule("contract")
def _short_product(
    pull: Puller, node: Call, coordinates: Coordinates, guards: Guards
) -> Expression:
    a, b = node.operands
    batch, row, column = coordinates
    nothing = Number(0, node.dtype)
    total: Expression = nothing
    for place in map(constant, range(a.shape[2])):
        first = pull.value(a, (batch, row, place), guards)
        second = pull.value(b, (batch, place, column), guards)
        total = Apply("fma", node.dtype, (first, second, total), {})
    return pull.apply("add", nothing, total)
