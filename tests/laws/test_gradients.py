"""Law: gradients are the derivatives of the meaning, to second order, by central differences."""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.differentiation import gradients
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret
from avalon.graph.primitive import table
from tests.laws.table import cases

DIFFERENTIABLE = [p for p in table().values() if not p.no_gradient_reason]
STEP = 1e-5


def weighted_sum(graph, node, rng):
    """A number that depends on every element of a node: the sum with fixed random weights."""
    weights = graph.input(node.shape, node.dtype, "weights")
    total = ops.reduce_sum(node * weights, axes=tuple(range(node.ndim)))
    return total, rng.normal(size=node.shape)


def numeric(run, values, position):
    """Central differences of a function that returns one number."""
    x = values[position]
    found = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        sides = []
        for step in (STEP, -STEP):
            moved = x.copy()
            moved[place] += step
            sides.append(run([*values[:position], moved, *values[position + 1 :]]))
        found[place] = (sides[0] - sides[1]) / (2 * STEP)
    return found


def program(graph, node):
    """A function of the inputs' values that computes one node."""

    def run(values):
        graph.outputs = [node]
        return interpret(graph, values)[0]

    return run


@pytest.mark.parametrize("primitive", DIFFERENTIABLE, ids=lambda p: p.name)
def test_gradients_are_central_differences(primitive):
    for case in cases(primitive, dtypes.float64):
        if sum(x.size for x in case.operands) > 60:
            continue
        if case.parameters.get("dtype", dtypes.float64) is not dtypes.float64:
            continue  # rounding to a narrower type has steps that differences would see
        rng = np.random.default_rng(0)
        graph, inputs, call = case.graph()
        if not call.dtype.is_floating_point:
            continue
        floats = [i for i, node in enumerate(inputs) if node.dtype is dtypes.float64]
        values = list(case.operands)
        total, weights = weighted_sum(graph, call, rng)
        values.append(weights)
        firsts = gradients(graph, [total], [inputs[i] for i in floats])
        for position, first in zip(floats, firsts, strict=True):
            if first is None:
                assert (
                    np.abs(numeric(program(graph, total), values, position)).max(initial=0) < 1e-9
                )
                continue
            check(graph, total, first, values, position, case)
            second_total, weights = weighted_sum(graph, first, rng)
            values.append(weights)
            seconds = gradients(graph, [second_total], [inputs[i] for i in floats])
            for other, second in zip(floats, seconds, strict=True):
                check(graph, second_total, second, values, other, case)


def check(graph: Graph, total, gradient, values, position, case):
    expected = numeric(program(graph, total), values, position)
    found = 0.0 if gradient is None else program(graph, gradient)(values)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6, err_msg=repr(case))
