"""Law: kernels and meaning agree at signed zeros, infinities, NaN, denormals and ends of ranges."""

import itertools

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.graph.interpret import from_storage, interpret, round_to_bfloat16, to_storage
from avalon.graph.primitive import ACCEPTS, Elementwise, table
from avalon.runtime.buffer import Buffer

FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -4.0, 20.0, -20.0, 88.0, -104.0]
FLOATS += [1e-3, 6e-8, -6e-8, 1e-40, 1e-310, 3e4, -3e38, 1e300, np.inf, -np.inf, np.nan]
NEAR = {"float16": 4e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}
CHANGES_TYPE = (ops.cast, ops.bitcast, ops.polygamma)
PRIMITIVES = [p for p in table().values() if p.kind is Elementwise and p not in CHANGES_TYPE]
# The sign of a zero that comes out of two zeros of different sign is not fixed.
EITHER_ZERO = (ops.maximum, ops.minimum)
REAL = [t for t in dtypes.ALL if not t.is_complex]


def specials(dtype):
    if dtype.kind == "bool":
        return np.array([False, True])
    if dtype.is_integer:
        info = np.iinfo(dtype.reference)
        signed = [-1, -2, -7] if dtype.is_signed else []
        some = [info.min, info.max, 0, 1, 2, 3, 7, 63, info.max // 2, *signed]
        return np.array(some, dtype.reference)
    with np.errstate(over="ignore"):
        x = np.array(FLOATS).astype(dtype.reference)
    return round_to_bfloat16(x) if dtype is dtypes.bfloat16 else x


def arity(primitive):
    return primitive.reference.__code__.co_argcount


def takes(primitive, dtype):
    accepts = primitive.accepts
    return ACCEPTS[accepts if isinstance(accepts, str) else accepts[-1]](dtype)


PAIRS = [(p, t) for p in PRIMITIVES for t in REAL if takes(p, t)]


def check(primitive, kinds, operands, parameters=None):
    graph = Graph(primitive.name)
    inputs = [graph.input(x.shape, kind) for x, kind in zip(operands, kinds, strict=True)]
    node = graph.call(primitive, inputs, parameters or {})
    graph.outputs = [node]
    (expected,) = interpret(graph, operands)
    buffers = [
        Buffer.from_numpy(np.ascontiguousarray(to_storage(x, kind)))
        for x, kind in zip(operands, kinds, strict=True)
    ]
    (buffer,) = compile_graph(graph, "plain").run(buffers)
    found = from_storage(np.array(buffer.as_numpy(node.dtype, node.shape)), node.dtype)
    if node.dtype.is_floating_point:
        near = NEAR[node.dtype.name]
        tiny = 1e-4 if node.dtype is dtypes.float16 else 0
        np.testing.assert_allclose(
            found.astype(float), expected.astype(float), rtol=near, atol=tiny, err_msg=graph.name
        )
        if primitive not in EITHER_ZERO:
            zero = (found == 0) & (expected == 0)
            np.testing.assert_array_equal(
                np.signbit(found[zero]), np.signbit(expected[zero]), err_msg="sign of zero"
            )
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("primitive", "dtype"), PAIRS, ids=lambda v: v.name)
def test_elementwise(primitive, dtype):
    some = specials(dtype)
    if arity(primitive) == 1:
        check(primitive, [dtype], [some])
        return
    a, b = np.array(list(itertools.product(some, some))).T.copy()
    a, b = a.astype(dtype.reference), b.astype(dtype.reference)
    if primitive is ops.where:
        check(primitive, [dtypes.bool_, dtype, dtype], [a < b, a, b])
    else:
        check(primitive, [dtype, dtype], [a, b])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polygamma(order):
    for dtype in (dtypes.float32, dtypes.float64):
        x = np.array([0.5, 1.0, 1e-3, 7.0, 300.0, np.nan], dtype.reference)
        check(ops.polygamma, [dtype], [x], {"order": order})


@pytest.mark.parametrize("source", REAL, ids=lambda t: t.name)
@pytest.mark.parametrize("target", REAL, ids=lambda t: t.name)
def test_casts(source, target):
    check(ops.cast, [source], [specials(source)], {"dtype": target})
