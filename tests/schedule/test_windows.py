"""What a contraction reads through strides: a value that several kernels want in another order is
stored once, in that order, and the bits stay those of the plain schedule.
"""

from __future__ import annotations

import numpy as np

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.runtime.buffer import Buffer


def _graph() -> Graph:
    graph = Graph("test")
    x = graph.input((3, 6, 2, 5, 4), dtypes.float32)
    w = graph.input((1, 24, 7), dtypes.float32)
    v = graph.input((1, 30, 9), dtypes.float32)
    moved = ops.transpose(ops.exp(x), permutation=(1, 3, 0, 2, 4))
    y = ops.reshape(moved, shape=(1, 30, 24))
    turned = ops.transpose(y, permutation=(0, 2, 1))
    graph.outputs = [ops.contract(y, w), ops.contract(turned, v), ops.reduce_sum(y, axes=(1,))]
    return graph


def test_a_value_in_another_order_is_stored_once() -> None:
    generator = np.random.default_rng(0)
    shapes = [(3, 6, 2, 5, 4), (1, 24, 7), (1, 30, 9)]
    arrays = [generator.random(shape, np.float32) for shape in shapes]
    results = {}
    for tier in ("plain", "cold", "hot"):
        program = compile_graph(_graph(), tier)
        made = program.run([Buffer.from_numpy(array) for array in arrays])
        results[tier] = [buffer.tobytes() for buffer in made]
        if tier == "hot":
            notes = [launch.note for launch in program.plan.launches]
            assert len(notes) == 4, notes
    assert results["hot"] == results["cold"] == results["plain"]
