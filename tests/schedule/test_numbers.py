"""Numbers that follow from a program's arguments are computed in the kernels that read them."""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.runtime.buffer import Buffer

F32, F64 = dtypes.float32, dtypes.float64


def decayed(size, number_of):
    """Two kernels, each of which reads a number that is made of the same two arguments."""
    graph = Graph("decayed")
    x, y = graph.input((size,), F32), graph.input((size,), F32)
    rate, decay = (graph.input((), F64, scalar=True) for _ in range(2))
    number = ops.cast(number_of(rate, decay), dtype=F32)
    graph.outputs = [
        ops.multiply(value, ops.broadcast(number, shape=value.shape)) for value in (x, ops.exp(y))
    ]
    return graph


def run(graph, tier):
    vectors = [np.linspace(-1, 1, x.shape[0], dtype=np.float32) for x in graph.inputs[:2]]
    given = [*map(Buffer.from_numpy, vectors), 1e-3, 0.01]
    found = compile_graph(graph, tier).run(given)
    return [buffer.as_numpy(F32, vectors[0].shape).copy() for buffer in found]


def test_a_learning_rate_times_a_decay_is_no_launch():
    graph = decayed(1000, lambda rate, decay: rate.constant(1.0) - rate * decay)
    assert len(compile_graph(graph, "hot").plan.launches) == 2
    for hot, plain in zip(run(graph, "hot"), run(graph, "plain"), strict=True):
        np.testing.assert_array_equal(hot, plain)


@pytest.mark.parametrize("power", [ops.power, lambda x, y: ops.exp(ops.log(x) * y)])
def test_a_number_that_takes_long_is_computed_once(power):
    graph = decayed(1000, power)
    assert len(compile_graph(graph, "hot").plan.launches) == 3
    for hot, plain in zip(run(graph, "hot"), run(graph, "plain"), strict=True):
        np.testing.assert_array_equal(hot, plain)
