"""Values and gradients are PyTorch's at ties, signed zeros, infinities, NaN and denormals."""

import itertools

import numpy as np
import pytest
import torch

from avalon import dtype as dtypes, ops
from avalon.differentiation import gradients
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, -3.5, 2.5, 1e-310, np.inf, -np.inf, np.nan]

UNARY = {
    ops.negative: torch.neg,
    ops.absolute: torch.abs,
    ops.sqrt: torch.sqrt,
    ops.exp: torch.exp,
    ops.expm1: torch.expm1,
    ops.log: torch.log,
    ops.log1p: torch.log1p,
    ops.sin: torch.sin,
    ops.cos: torch.cos,
    ops.tanh: torch.tanh,
    ops.erf: torch.erf,
    ops.erfinv: torch.erfinv,
    ops.lgamma: torch.lgamma,
    ops.floor: torch.floor,
    ops.ceil: torch.ceil,
    ops.round: torch.round,
    ops.truncate: torch.trunc,
}
BINARY = {
    ops.add: torch.add,
    ops.subtract: torch.subtract,
    ops.multiply: torch.multiply,
    ops.divide: torch.divide,
    ops.remainder: torch.remainder,
    ops.power: torch.pow,
    ops.maximum: torch.maximum,
    ops.minimum: torch.minimum,
    ops.atan2: torch.atan2,
}
INTEGER = {
    ops.add: torch.add,
    ops.subtract: torch.subtract,
    ops.multiply: torch.multiply,
    ops.divide: lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    ops.floor_divide: torch.floor_divide,
    ops.remainder: torch.remainder,
    ops.maximum: torch.maximum,
    ops.minimum: torch.minimum,
    ops.bit_and: torch.bitwise_and,
    ops.bit_or: torch.bitwise_or,
    ops.bit_xor: torch.bitwise_xor,
}


def ours(primitive, values, seed, **parameters):
    """Value and gradients of one call in float64."""
    graph = Graph()
    inputs = [graph.input(x.shape, dtypes.float64) for x in values]
    call = primitive(*inputs, **parameters)
    g = graph.input(call.shape, dtypes.float64)
    found = gradients(graph, [call], inputs, [g])
    graph.outputs = [call, *found]
    return interpret(graph, [*values, np.broadcast_to(seed, call.shape)])


def theirs(function, values, seed):
    tensors = [torch.tensor(x, requires_grad=True) for x in values]
    result = function(*tensors)
    result.backward(torch.full_like(result, seed))
    return [result.detach().numpy(), *(x.grad.numpy() for x in tensors)]


def assert_same(found, expected, label):
    for position, (a, b) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=f"{label} {position}")


@pytest.mark.parametrize("primitive", UNARY, ids=lambda p: p.name)
@pytest.mark.parametrize("seed", [1.0, 0.0])
def test_unary(primitive, seed):
    x = np.array(SPECIAL)
    assert_same(ours(primitive, [x], seed), theirs(UNARY[primitive], [x], seed), primitive.name)


@pytest.mark.parametrize("primitive", BINARY, ids=lambda p: p.name)
def test_binary(primitive):
    # torch.remainder divides by its denormals in vectors as if they were zero
    divisors = [b for b in SPECIAL if primitive is not ops.remainder or b != 1e-310]
    pairs = np.array(list(itertools.product(SPECIAL, divisors)))
    values = [pairs[:, 0].copy(), pairs[:, 1].copy()]
    found, expected = ours(primitive, values, 1.0), theirs(BINARY[primitive], values, 1.0)
    assert_same(found, expected, primitive.name)


@pytest.mark.parametrize("primitive", INTEGER, ids=lambda p: p.name)
@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int32", "int64"])
def test_integers(primitive, name):
    dtype = dtypes.by_name(name)
    info = np.iinfo(dtype.reference)
    some = [info.min, info.max, 0, 1, 2, 3, 7, info.max // 2]
    if info.min < 0:
        some += [-1, -2, -7]
    divides = primitive in (ops.divide, ops.floor_divide, ops.remainder)
    pairs = [
        (a, b)
        for a, b in itertools.product(some, some)
        if not (divides and (b == 0 or (a == info.min and b == -1)))
    ]
    a, b = np.array(pairs, dtype.reference).T.copy()
    graph = Graph()
    graph.outputs = [primitive(graph.input(a.shape, dtype), graph.input(b.shape, dtype))]
    (found,) = interpret(graph, [a, b])
    expected = INTEGER[primitive](torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_array_equal(found, expected)


def test_integer_powers_and_shifts():
    a, b = np.array(
        list(itertools.product([-3, -1, 0, 1, 2, 5], [-2, -1, 0, 1, 3, 70])), np.int64
    ).T.copy()
    for primitive, function in (
        (ops.power, torch.pow),
        (ops.shift_left, torch.bitwise_left_shift),
        (ops.shift_right, torch.bitwise_right_shift),
    ):
        graph = Graph()
        graph.outputs = [
            primitive(graph.input(a.shape, dtypes.int64), graph.input(b.shape, dtypes.int64))
        ]
        (found,) = interpret(graph, [a, b])
        np.testing.assert_array_equal(found, function(torch.tensor(a), torch.tensor(b)).numpy())


def test_integer_division_by_zero_gives_zero():
    zero, seven = np.zeros(3, np.int32), np.full(3, 7, np.int32)
    for primitive in (ops.divide, ops.floor_divide, ops.remainder):
        np.testing.assert_array_equal(primitive.reference(seven, zero), zero)


def test_what_where_does_not_choose_gets_zero():
    graph = Graph()
    condition = graph.input((2,), dtypes.bool_)
    x = graph.input((2,), dtypes.float64)
    call = ops.where(condition, x, x.constant(1.0))
    g = graph.input((2,), dtypes.float64)
    graph.outputs = gradients(graph, [call], [x], [g])
    (found,) = interpret(graph, [np.array([True, False]), np.ones(2), np.array([2.0, np.inf])])
    np.testing.assert_array_equal(found, [2.0, 0.0])


@pytest.mark.parametrize(
    ("primitive", "function"),
    [(ops.reduce_max, torch.amax), (ops.reduce_min, torch.amin)],
    ids=["max", "min"],
)
def test_extremes_share_among_ties(primitive, function):
    x = np.array([[1.0, 3, 3, 2], [2, 2, 2, 2], [-1, 0.0, -0.0, -5], [1, np.inf, np.inf, -np.inf]])
    found = ours(primitive, [x], 1.0, axes=(1,))
    assert_same(found, theirs(lambda t: function(t, dim=1), [x], 1.0), primitive.name)


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_products_with_zeros(zeros):
    x = np.random.default_rng(zeros).uniform(0.5, 2, (2, 5))
    x[0, [3, 1, 4][:zeros]] = 0
    found = ours(ops.reduce_product, [x], 1.5, axes=(1,))
    assert_same(found, theirs(lambda t: torch.prod(t, 1), [x], 1.5), "product")
    found = ours(ops.cumulative_product, [x], 1.5, axis=1, reverse=False)
    assert_same(found, theirs(lambda t: torch.cumprod(t, 1), [x], 1.5), "cumulative product")


@pytest.mark.parametrize(
    ("primitive", "function"),
    [(ops.cumulative_argmax, torch.cummax), (ops.cumulative_argmin, torch.cummin)],
    ids=["max", "min"],
)
def test_running_extremes(primitive, function):
    x = np.array([2, 1, 2, 2, np.nan, 3, np.nan, -np.inf])
    for values in (x, x[:4], np.array([1, 1, 0, 0, 2, 2])):
        found = primitive.reference(values, axis=0)
        np.testing.assert_array_equal(found, function(torch.tensor(values), 0).indices.numpy())


@pytest.mark.parametrize("descending", [False, True])
def test_order(descending):
    x = np.array([3, 1, np.nan, 1, -np.inf, 3, np.nan, np.inf, 0.0, -0.0])
    found = ops.argsort.reference(x, axis=0, descending=descending, count=len(x))
    expected = torch.sort(torch.tensor(x), stable=True, descending=descending).indices
    np.testing.assert_array_equal(found, expected.numpy())


def test_casts_to_integers_saturate():
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.9, -2.9, 127.5, 128.0])
    found = ops.cast.reference(x, dtype=dtypes.int8)
    np.testing.assert_array_equal(found, [0, 127, -128, 127, -128, 2, -2, 127, 127])
    found = ops.cast.reference(np.array([2.0**63, -(2.0**63), 2.0**62]), dtype=dtypes.int64)
    np.testing.assert_array_equal(found, [2**63 - 1, -(2**63), 2**62])


def test_philox_is_the_published_generator():
    # Known answers of Random123 (kat_vectors): counter and key all zero.
    words = ops.random_bits.reference(np.uint64(0), np.uint64(0), shape=(4,))
    assert [hex(word) for word in words] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
