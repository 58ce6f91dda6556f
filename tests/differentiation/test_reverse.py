"""Reverse mode over whole graphs: sums, seeds, order, notes, depth; what rules read."""

import numpy as np
import pytest
import torch

from avalon import ops
from avalon.differentiation import gradient_of, gradients
from avalon.dtype import float32, float64, int64
from avalon.errors import AutogradError
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret
from avalon.graph.verify import verify


def matmul(a, b):
    batched = (
        ops.reshape(a, shape=(1, *a.shape)),
        ops.reshape(b, shape=(1, *b.shape)),
    )
    return ops.reshape(ops.contract(*batched), shape=(a.shape[0], b.shape[1]))


def test_a_network_matches_torch():
    rng = np.random.default_rng(0)
    data = [rng.normal(size=shape) for shape in ((5, 4), (4, 6), (6,), (6, 3))]
    graph = Graph()
    x, w, b, v = (graph.input(d.shape, float64) for d in data)
    hidden = ops.tanh(matmul(x, w) + ops.broadcast(b, shape=(5, 6)))
    loss = ops.reduce_sum(ops.exp(matmul(hidden, v)) * 0.1, axes=(0, 1))
    graph.outputs = [loss, *gradients(graph, [loss], [x, w, b, v])]
    verify(graph)

    tensors = [torch.tensor(d, requires_grad=True) for d in data]
    expected = ((torch.tanh(tensors[0] @ tensors[1] + tensors[2]) @ tensors[3]).exp() * 0.1).sum()
    expected.backward()
    found = interpret(graph, data)
    np.testing.assert_allclose(found[0], expected.item())
    for gradient, tensor in zip(found[1:], tensors, strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-10)


def test_uses_are_summed_last_use_first():
    graph = Graph()
    x = graph.input((), float32)
    total = (x + ops.sin(x)) + ops.cos(x)
    (gradient,) = gradients(graph, [total], [x])
    # ((cosine's + sine's) + the plain use's)
    assert gradient.primitive is ops.add
    late, plain = gradient.operands
    assert late.primitive is ops.add
    assert plain is gradients(graph, [total], [total.operands[0]])[0] or plain.shape == ()


def test_nodes_in_the_middle_can_be_asked_for():
    graph = Graph()
    x = graph.input((3,), float64)
    middle = ops.exp(x)
    loss = ops.reduce_sum(middle * middle, axes=(0,))
    by_middle, by_x = gradients(graph, [loss], [middle, x])
    graph.outputs = [by_middle, by_x]
    values = np.array([0.0, 1, 2])
    found = interpret(graph, [values])
    np.testing.assert_allclose(found[0], 2 * np.exp(values))
    np.testing.assert_allclose(found[1], 2 * np.exp(2 * values))


def test_what_does_not_depend_gets_none():
    graph = Graph()
    x, other = graph.input((), float32), graph.input((), float32)
    index = graph.input((), int64)
    loss = ops.exp(x) + ops.stop_gradient(ops.sin(other))
    assert gradients(graph, [loss], [other, index]) == [None, None]


def test_an_output_asked_for_gets_its_seed():
    graph = Graph()
    x = graph.input((), float32)
    (found,) = gradients(graph, [x], [x])
    graph.outputs = [found]
    assert interpret(graph, [3.0])[0] == 1


def test_seeds():
    graph = Graph()
    x = graph.input((3,), float32)
    y = ops.exp(x)
    with pytest.raises(AutogradError, match=r"shape \(3,\) needs a seed.*\.sum\(\)"):
        gradients(graph, [y], [x])
    with pytest.raises(AutogradError, match=r"seed is float32 \(\); expected float32 \(3,\)"):
        gradients(graph, [y], [x], [graph.input((), float32)])


def test_gradients_say_what_they_are_gradients_of():
    graph = Graph()
    x = graph.input((), float32)
    graph.source = ("models/net.py", 14)
    y = ops.sqrt(x)
    graph.source = None
    (found,) = gradients(graph, [y], [x])
    assert found.note == "gradient of sqrt (net.py:14)"
    assert found.source == ("models/net.py", 14)
    assert (graph.note, graph.source) == ("", None)


def test_only_what_lies_between_is_differentiated():
    graph = Graph()
    x, y = graph.input((), float32), graph.input((), float32)
    side = ops.exp(ops.exp(y))
    loss = ops.sin(x) * side
    before = len(graph)
    gradients(graph, [loss], [x])
    new = graph.nodes[before:]
    assert not any("exp" in node.note for node in new)


def test_a_hundred_thousand_nodes():
    graph = Graph()
    x = y = graph.input((), float64)
    for _ in range(50_000):
        y = ops.sin(y) + x
    graph.outputs = gradients(graph, [y], [x])
    assert len(graph) > 200_000
    value = reference = 0.3
    slope = 1.0
    for _ in range(50_000):
        slope = np.cos(reference) * slope + 1
        reference = np.sin(reference) + value
    np.testing.assert_allclose(interpret(graph, [value])[0], slope, rtol=1e-9)


@pytest.mark.parametrize(
    ("primitive", "shapes", "parameters", "operand", "reads", "reads_output"),
    [
        (ops.exp, [(3,)], {}, 0, (), True),
        (ops.log, [(3,)], {}, 0, (0,), False),
        (ops.add, [(3,), (3,)], {}, 1, (), False),
        (ops.multiply, [(3,), (3,)], {}, 0, (1,), False),
        (ops.divide, [(3,), (3,)], {}, 1, (1,), True),
        (ops.contract, [(1, 2, 3), (1, 3, 4)], {}, 1, (0,), False),
        (ops.reduce_sum, [(3, 4)], {"axes": (0,)}, 0, (), False),
        (ops.reduce_max, [(3, 4)], {"axes": (0,)}, 0, (0,), True),
        (ops.stop_gradient, [(3,)], {}, 0, (), False),
        (ops.floor, [(3,)], {}, 0, (), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_rule_reads_only_what_it_needs(
    primitive, shapes, parameters, operand, reads, reads_output
):
    graph = Graph()
    operands = [graph.input(shape, float32) for shape in shapes]
    call = graph.call(primitive, operands, parameters)
    needed = tuple(position == operand for position in range(len(operands)))
    rule = gradient_of(primitive, operands, call, parameters, needed)
    assert (rule.reads, rule.reads_output) == (reads, reads_output)
    assert gradient_of(primitive, operands, call, parameters, needed) is rule
    g = graph.input(call.shape, call.dtype)
    output = call if reads_output else None
    given = [x if position in reads else None for position, x in enumerate(operands)]
    found = rule.apply(g, output, given)
    assert [x is None for x in found] == [
        not need or primitive is ops.stop_gradient for need in needed
    ]
