"""The order of reductions, as it is documented, and the kernels that follow it to the bit."""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.runtime.buffer import Buffer
from avalon.schedule.order import LANES, block_of, order_of, tree


def summed_as_documented(x, axes):
    """A float32 sum in the order that `order` describes, one addition at a time."""
    order = order_of(x.shape, axes)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    moved = np.transpose(x, [*kept, *axes]).reshape(
        [x.shape[a] for a in kept] + list(order.extents)
    )
    flat = moved.reshape(-1, *order.extents)
    result = np.zeros(len(flat), np.float32)
    lanes = LANES if order.form == "row" else 1
    for place, row in enumerate(flat):
        total = np.zeros(lanes, np.float32)
        for outer in row.reshape(-1, order.extents[-1]):
            padded = np.zeros(-(-len(outer) // lanes) * lanes, np.float32)
            padded[: len(outer)] = outer
            rounds = padded.reshape(-1, lanes)
            for start in range(0, len(rounds), order.block):
                running = np.zeros(lanes, np.float32)
                for values in rounds[start : start + order.block]:
                    running = running + values
                total = total + running
        result[place] = tree(list(total), lambda a, b: a + b)
    return result.reshape([x.shape[axis] for axis in kept])


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((5, 7), (1,)), ((5, 300), (1,)), ((2, 9000), (1,)), ((300, 5), (0,)), ((3, 4, 50), (0, 2)),
        ((2, 3, 4, 5), (1, 2)), ((4, 1, 40), (1, 2)), ((6, 16, 2), (1, 2)), ((50, 3, 1), (0,)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tier", ["plain", "cold", "hot"])
def test_sums_follow_the_documented_order(shape, axes, tier):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = Graph("sum")
    graph.outputs = [ops.reduce_sum(graph.input(shape, dtypes.float32), axes=axes)]
    (found,) = compile_graph(graph, tier).run([Buffer.from_numpy(x)])
    expected = summed_as_documented(x, axes)
    np.testing.assert_array_equal(found.as_numpy(dtypes.float32, expected.shape), expected)


def test_axes_of_one_and_neighbours_count_as_one():
    assert order_of((4, 1, 5, 6), (1, 2, 3)).groups == ((2, 3),)
    assert order_of((4, 1, 5, 6), (0, 2)).form == "column"
    assert order_of((4, 3, 1), (1,)).form == "row"
    assert order_of((1, 1), (0, 1)).groups == ()


def test_blocks_grow_like_the_root():
    assert block_of(100) == 100
    assert [block_of(n) for n in (129, 5_000, 1_000_000)] == [64, 128, 1024]
