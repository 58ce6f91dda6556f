"""Declarations: what is refused at import, and what errors say."""

import pickle

import numpy as np
import pytest

from avalon import ops
from avalon.dtype import float32, int64
from avalon.errors import DeclarationError, DTypeError
from avalon.graph import primitive as module
from avalon.graph.graph import Graph
from avalon.graph.primitive import Elementwise, Movement, check_complete, lookup, primitive, table
from avalon.ops import samples


@pytest.fixture(autouse=True)
def unchanged_table(monkeypatch):
    monkeypatch.setattr(module, "_TABLE", table())


def test_an_incomplete_declaration_is_an_error():
    @primitive(Movement, samples=samples.anything)
    def shuffle(x):
        """Elements somewhere else."""
        return x

    shuffle.lowering("shuffle")
    with pytest.raises(DeclarationError, match=r"\[shuffle\].*@shuffle.gradient, @shuffle.shape"):
        check_complete(shuffle)


def test_names_are_unique_and_documented():
    def exp(x):
        return np.exp(x)

    with pytest.raises(DeclarationError, match=r"\[exp\] is declared twice"):
        primitive(Elementwise, samples=samples.anything)(exp)
    exp.__name__ = "other"
    with pytest.raises(DeclarationError, match="needs a docstring"):
        primitive(Elementwise, samples=samples.anything)(exp)
    with pytest.raises(DeclarationError, match="declares its gradient rule twice"):
        ops.exp.gradient(lambda g, y, x: g)


def test_unknown_names():
    with pytest.raises(DeclarationError, match="'softmax'"):
        lookup("softmax")


def test_dtype_errors_name_the_operand():
    graph = Graph()
    with pytest.raises(DTypeError, match=r"\[exp\] operand 0 has dtype int64; expected a float"):
        ops.exp(graph.input((3,), int64))
    with pytest.raises(DTypeError, match=r"\[add\] dtypes float32 and int64 must be equal"):
        ops.add(graph.input((3,), float32), graph.input((3,), int64))


def test_primitives_pickle_by_name():
    assert pickle.loads(pickle.dumps(ops.exp)) is ops.exp


def test_every_primitive_is_documented_and_sampled():
    for made in table().values():
        assert made.__doc__
        assert made.__doc__[0] != " "
        check_complete(made)
