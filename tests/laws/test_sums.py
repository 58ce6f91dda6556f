"""Law: sums of every length have equal bits in all tiers, and errors within c log2(n) eps sum|a||b|
of float64.
"""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret
from avalon.runtime.buffer import Buffer

LENGTHS = [
    1,
    2,
    7,
    8,
    15,
    16,
    17,
    31,
    33,
    63,
    64,
    65,
    127,
    129,
    255,
    300,
    511,
    512,
    513,
    1025,
    2500,
]


def pick(rng, most):
    return int(rng.choice([n for n in LENGTHS if n <= most]))


def reduction(rng):
    rank = int(rng.integers(1, 4))
    shape = [pick(rng, {1: 2500, 2: 520, 3: 65}[rank]) for _ in range(rank)]
    axes = tuple(axis for axis in range(rank) if rng.random() < 0.6) or (rank - 1,)
    primitive = [ops.reduce_sum, ops.reduce_sum, ops.reduce_max, ops.reduce_product][
        int(rng.integers(4))
    ]
    return primitive, [shape], {"axes": axes}


def running(rng):
    shape = [pick(rng, 70), pick(rng, 300)]
    parameters = {"axis": int(rng.integers(2)), "reverse": bool(rng.integers(2))}
    return ops.cumulative_sum, [shape], parameters


def matrices(rng):
    batch, rows, depth, columns = (
        int(rng.integers(1, 4)),
        pick(rng, 130),
        pick(rng, 1100),
        pick(rng, 130),
    )
    return ops.contract, [[batch, rows, depth], [batch, depth, columns]], {}


def convolution(rng):
    space = int(rng.integers(1, 3))
    groups, batch = int(rng.integers(1, 3)), int(rng.choice([1, 2, 5]))
    channels, out = pick(rng, 33), pick(rng, 33)
    kernel = [int(rng.choice([1, 2, 3, 5])) for _ in range(space)]
    extents = [k + int(rng.choice([0, 1, 6, 13, 17, 28])) for k in kernel]
    wide = rng.random() < 0.6  # the plain kind of convolution
    parameters = {
        "stride": tuple(1 if wide else int(rng.integers(1, 4)) for _ in kernel),
        "input_dilation": tuple(1 if wide else int(rng.integers(1, 3)) for _ in kernel),
        "kernel_dilation": (1,) * space,
        "low": tuple(int(rng.integers(-1 if not wide else 0, 3)) for _ in kernel),
        "high": tuple(int(rng.integers(0, 3)) + 1 for _ in kernel),
        "flip": bool(rng.random() < 0.3),
    }
    return (
        ops.convolve,
        [[groups, batch, channels, *extents], [groups, out, channels, *kernel]],
        parameters,
    )


def run(graph, tier, operands):
    buffers = [Buffer.from_numpy(np.ascontiguousarray(x)) for x in operands]
    (found,) = compile_graph(graph, tier).run(buffers)
    (node,) = graph.outputs
    return np.array(found.as_numpy(node.dtype, node.shape))


def terms(primitive, operands, node):
    """How many roundings an element may have, its exact value, and the sum of its magnitudes."""
    graph = Graph()
    inputs = [graph.input(x.shape, dtypes.float64) for x in operands]
    graph.outputs = [graph.call(node.primitive, inputs, node.parameters)]
    (exact,) = interpret(graph, operands)
    (size,) = interpret(graph, [np.abs(x.astype(np.float64)) for x in operands])
    count = max(int(np.prod(operands[0].shape)) // max(int(np.prod(node.shape)), 1), 2)
    if primitive is ops.contract:
        count = operands[0].shape[2]
    if primitive is ops.convolve:
        count = int(np.prod(operands[1].shape[2:]))
    if primitive is ops.cumulative_sum:
        return max(operands[0].shape), exact, size  # one chain: linear growth
    return max(np.log2(count), 1), exact, size


@pytest.mark.parametrize("make", [reduction, running, matrices, convolution])
@pytest.mark.parametrize("seed", range(8))
def test_sums(make, seed):
    check(make, seed)


def check(make, seed):
    rng = np.random.default_rng(seed * 7 + len(make.__name__))
    dtype = [dtypes.float32, dtypes.float32, dtypes.float64][seed % 3]
    primitive, shapes, parameters = make(rng)
    scale = 0.02 if primitive is ops.reduce_product else 1.0
    operands = [
        (rng.normal(size=shape) * scale + (1 if scale < 1 else 0)).astype(dtype.reference)
        for shape in shapes
    ]
    graph = Graph(make.__name__)
    inputs = [graph.input(x.shape, dtype) for x in operands]
    node = graph.call(primitive, inputs, parameters)
    graph.outputs = [node]
    plain = run(graph, "plain", operands)
    for tier in ("cold", "hot"):
        assert run(graph, tier, operands).tobytes() == plain.tobytes(), (tier, shapes, parameters)
    if primitive is ops.reduce_product:
        np.testing.assert_allclose(plain, interpret(graph, operands)[0], rtol=1e-4)
        return
    roundings, exact, size = terms(primitive, operands, node)
    epsilon = np.finfo(dtype.reference).eps
    error = np.abs(plain - exact)
    bound = 4 * roundings * epsilon * size
    assert (error <= bound).all(), (shapes, parameters, (error / np.maximum(bound, 1e-300)).max())
