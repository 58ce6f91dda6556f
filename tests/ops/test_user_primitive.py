"""A primitive declared by a user compiles, differentiates and interprets like ours."""

import numpy as np
import pytest

from avalon.compiler import compile_graph
from avalon.differentiation import gradients
from avalon.dtype import float32
from avalon.errors import DeclarationError
from avalon.graph import primitive as module
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret
from avalon.graph.primitive import Elementwise, primitive, table
from avalon.ops import samples
from avalon.ops.elementwise import sign
from avalon.runtime.buffer import Buffer


@pytest.fixture(autouse=True)
def restored_table(monkeypatch):
    monkeypatch.setattr(module, "_TABLE", table())


def test_declare_use_differentiate_compile():
    @primitive(Elementwise, accepts="float", samples=samples.anything)
    def squashed(x):
        """x / (1 + |x|)"""
        return x / (1 + np.abs(x))

    @squashed.gradient
    def _(g, y, x):
        flat = 1.0 - y * sign(x)
        return g * flat * flat

    @squashed.lower
    def _(emit, x):
        return emit.divide(x, emit.add(emit.like(x, 1), emit.absolute(x)))

    graph = Graph()
    x = graph.input((5,), float32)
    y = squashed(x) * 2.0
    graph.outputs = [y, *gradients(graph, [y], [x], [y.constant(1.0)])]
    data = np.array([-3, -0.5, 0, 1, 7], np.float32)
    expected = [2 * data / (1 + np.abs(data)), 2 / (1 + np.abs(data)) ** 2]
    for found in (
        interpret(graph, [data]),
        [
            buffer.as_numpy(float32, (5,))
            for tier in ("plain", "cold", "hot")
            for buffer in compile_graph(graph, tier).run([Buffer.from_numpy(data)])
        ],
    ):
        for position, value in enumerate(found):
            np.testing.assert_allclose(value, expected[position % 2], rtol=1e-6)


def test_an_incomplete_one_is_refused_at_its_first_use():
    @primitive(Elementwise, accepts="float", samples=samples.anything)
    def half_done(x):
        """x"""
        return x

    graph = Graph()
    with pytest.raises(
        DeclarationError, match=r"\[half_done\].*@half_done.gradient, @half_done.lower"
    ):
        half_done(graph.input((5,), float32))
