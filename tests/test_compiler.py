"""Law: every tier computes the meaning of every primitive, in every dtype it accepts, with equal
bits.
"""

import numpy as np
import pytest

from avalon import dtype as dtypes
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.graph.interpret import from_storage, interpret, to_storage
from avalon.runtime.buffer import Buffer
from tests.laws.table import NAMES, PAIRS, cases

RELATIVE = {
    dtypes.float16: 2e-3,
    dtypes.bfloat16: 2e-2,
    dtypes.float32: 2e-5,
    dtypes.float64: 1e-11,
}


def run(graph, tier, operands):
    """The outputs of a compiled graph, as arrays of their reference types."""
    buffers = [
        Buffer.from_numpy(np.ascontiguousarray(to_storage(x, node.dtype)))
        for x, node in zip(operands, graph.inputs, strict=True)
    ]
    outputs = compile_graph(graph, tier).run(buffers)
    return [
        from_storage(np.array(found.as_numpy(node.dtype, node.shape)), node.dtype)
        for found, node in zip(outputs, graph.outputs, strict=True)
    ]


def all_cases(primitive, dtype):
    """One graph that computes all samples of a primitive, with its operands."""
    graph, operands, described = Graph(primitive.name), [], []
    for case in cases(primitive, dtype):
        inputs = [graph.input(x.shape, t) for x, t in zip(case.operands, case.dtypes, strict=True)]
        graph.outputs.append(graph.call(primitive, inputs, case.parameters))
        operands.extend(case.operands)
        described.append(repr(case))
    return graph, operands, described


@pytest.mark.parametrize(("primitive", "dtype"), PAIRS, ids=NAMES)
def test_tiers_compute_the_meaning(primitive, dtype):
    if primitive.name == "host_call":
        pytest.skip("runs between native stretches")
    graph, operands, described = all_cases(primitive, dtype)
    expected = interpret(graph, operands)
    plain = run(graph, "plain", operands)
    for value, found, node, case in zip(expected, plain, graph.outputs, described, strict=True):
        if node.dtype.is_floating_point:
            tolerance = RELATIVE[node.dtype]
            np.testing.assert_allclose(
                found.astype(np.float64),
                value.astype(np.float64),
                tolerance,
                tolerance,
                err_msg=case,
            )
        else:
            np.testing.assert_array_equal(found, value, err_msg=case)
    for tier in ("cold", "hot"):
        for value, found, case in zip(plain, run(graph, tier, operands), described, strict=True):
            assert value.tobytes() == found.tobytes(), (tier, case)
