"""The edit verbs: what they do, what they refuse, that references survive."""

import numpy as np
import pytest

from avalon import ops
from avalon.dtype import float32, float64, int64
from avalon.errors import GraphError, ShapeError
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret
from avalon.graph.verify import verify


def chain():
    """exp(x) + x"""
    graph = Graph("chain")
    x = graph.input((3,), float32, "x")
    y = ops.exp(x)
    z = y + x
    graph.outputs = [z]
    return graph, x, y, z


def test_append_is_calling_the_primitive():
    graph, x, y, _ = chain()
    call = graph.append(ops.maximum, x, y)
    assert graph.nodes[-1] is call
    verify(graph)


def test_insert_before_keeps_the_order_and_the_references():
    graph, x, y, z = chain()
    first = graph.insert_before(z, ops.sin, y)
    second = graph.insert_before(z, ops.cos, first)
    zeroth = graph.insert_before(first, ops.tanh, x)
    assert graph.nodes == [x, y, zeroth, first, second, z]
    verify(graph)


def test_insert_before_refuses_operands_that_come_later():
    graph, _, y, z = chain()
    with pytest.raises(GraphError, match=r"\[insert_before\].*exp.*\(3,\)"):
        graph.insert_before(y, ops.exp, z)


def test_before_moves_ordinary_operations():
    graph, _, y, z = chain()
    with graph.before(z):
        doubled = y * 2.0
    graph.replace(y, doubled)
    verify(graph)
    (found,) = interpret(graph, [np.zeros(3)])
    np.testing.assert_array_equal(found, [2, 2, 2])


def test_replace_reaches_users_and_outputs():
    graph, x, y, z = chain()
    with graph.before(y):
        other = ops.sin(x)
    graph.replace(y, other)
    assert y not in graph.nodes
    assert graph.current(y) is other
    assert z.operands == (other, x)
    graph.replace(z, other)
    assert graph.outputs == [other]
    assert graph.current(z) is other
    verify(graph)


def test_replace_by_something_made_of_it():
    graph, x, y, z = chain()
    with graph.before(z):
        wrapped = ops.negative(y)
    graph.replace(y, wrapped)
    assert wrapped.operands == (y,)
    assert z.operands == (wrapped, x)
    assert graph.users(y) == [wrapped]
    verify(graph)


def test_replace_refuses_other_types():
    graph, x, y, _ = chain()
    with pytest.raises(GraphError, match=r"\[replace\] float64 \(3,\) cannot stand for float32"):
        graph.replace(y, ops.cast(x, dtype=float64))


def test_remove():
    graph, _, y, _ = chain()
    with pytest.raises(GraphError, match=r"\[remove\].*used by add"):
        graph.remove(y)
    with pytest.raises(GraphError, match="outputs"):
        graph.remove(graph.outputs[0])
    spare = ops.sin(y)
    graph.remove(spare)
    assert graph.users(y) == [graph.outputs[0]]
    assert len(graph) == len(graph.nodes) == 3
    verify(graph)


def test_inline_copies_a_body():
    body, *_ = chain()
    graph = Graph()
    a = graph.input((3,), float32)
    (b,) = graph.inline(body, [a])
    (c,) = graph.inline(body, [b])
    graph.outputs = [c]
    verify(graph)
    x = np.array([0.0, 1, -1], np.float32)
    once = np.exp(x) + x
    np.testing.assert_array_equal(interpret(graph, [x])[0], np.exp(once) + once)
    with pytest.raises(GraphError, match=r"\[inline\] chain takes float32 \(3,\); int64 \(\)"):
        graph.inline(body, [graph.input((), int64)])


def test_copy_is_equal_and_independent():
    graph, *_ = chain()
    twin = graph.copy()
    assert twin.signature() == graph.signature()
    twin.outputs = [twin.inputs[0]]
    assert twin.signature() != graph.signature()


def test_many_insertions_in_one_place():
    graph, x, _, z = chain()
    for _ in range(3000):
        graph.insert_before(z, ops.sin, x)
    for _ in range(300):
        graph.insert_before(graph.nodes[2], ops.cos, x)
    verify(graph)
    assert graph.nodes[-1] is z


def test_a_hundred_thousand_edits():
    graph = Graph()
    x = y = graph.input((2,), float32)
    for _ in range(50_000):
        y = ops.exp(y)
    graph.outputs = [y]
    for node in graph.nodes[1:]:
        with graph.before(node):
            replacement = ops.sin(node.operands[0])
        graph.replace(node, replacement)
    assert len(graph) == 50_001
    verify(graph)
    assert all(node.primitive is ops.sin for node in graph.nodes[1:])
    assert graph.users(x) == [graph.nodes[1]]


def test_numbers_in_formulas_are_constants():
    _, x, *_ = chain()
    call = 1 - x
    assert call.primitive is ops.subtract
    assert call.operands[0].value == 1
    assert call.operands[1] is x


def test_a_wrong_shape_is_an_error_at_once():
    graph, x, *_ = chain()
    with pytest.raises(ShapeError, match=r"\[add\] shapes \(3,\) and \(4,\) must be equal"):
        ops.add(x, graph.input((4,), float32))
