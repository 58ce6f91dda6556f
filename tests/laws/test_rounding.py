"""Law: every recorded rounding happens: exactly rounded arithmetic gives NumPy's bits in all tiers,
and no product and sum of two calls become one operation.
"""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret, to_storage
from tests.laws.test_random_graphs import run

FORMULAS = {
    "product and sum": lambda a, b, c: a * b + c,
    "sum of products": lambda a, b, c: a * b - b * c,
    "quotient": lambda a, b, c: (a - c) / b,
    "root": lambda a, b, c: ops.sqrt(ops.absolute(a * b + c)),
    "average": lambda a, b, c: a * 0.9 + b * 0.1,
}


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("dtype", dtypes.FLOATS, ids=lambda t: t.name)
def test_bits_are_those_of_rounding_after_each_call(formula, dtype):
    rng = np.random.default_rng(0)
    graph = Graph()
    inputs = [graph.input((1003,), dtype) for _ in range(3)]
    graph.outputs = [FORMULAS[formula](*inputs)]
    operands = [rng.normal(size=1003).astype(dtype.reference) for _ in inputs]
    (expected,) = interpret(graph, operands)
    stored = [to_storage(x, dtype) for x in operands]
    if dtype is dtypes.bfloat16:  # what lies in memory is what the meaning reads
        (expected,) = interpret(
            graph, [(x.astype(np.uint32) << 16).view(np.float32) for x in stored]
        )
    for tier in ("plain", "cold", "hot"):
        (found,) = run(graph, tier, stored)
        assert found.tobytes() == to_storage(expected, dtype).tobytes(), tier
