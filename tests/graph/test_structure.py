"""Signatures, printing, verification and interpretation of graphs."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from avalon import ops
from avalon.dtype import bfloat16, bool_, float16, float32, int64
from avalon.errors import GraphError, IndexOutOfRange
from avalon.graph.graph import Graph
from avalon.graph.interpret import from_storage, interpret, round_to_bfloat16, to_storage
from avalon.graph.rebuild import rebuild
from avalon.graph.show import show
from avalon.graph.verify import verify


def example(constant=2.5, size=4, name="step", start=1):
    graph = Graph(name)
    x = graph.input((3, size), float32, "x")
    lr = graph.input((), float32, "x", scalar=True)
    graph.note, graph.source = "gradient of sqrt (net.py:14)", ("a; # b net.py", 14)
    y = ops.exp(x) * constant + ops.broadcast(lr, shape=x.shape)
    graph.note, graph.source = "", None
    k = graph.input((), int64, "k", scalar=True)
    y = ops.slice(y, k, starts=(None, start), sizes=(2, 1), steps=(1, 1))
    count = graph.call(ops.iota, (), {"shape": (3,), "axis": 0, "dtype": int64})
    graph.outputs = [y + y.constant(float("nan")), ops.cast(count, dtype=bool_), y]
    return graph


def test_equal_structure_has_equal_signatures():
    one, other = example(), example(name="other")
    other.nodes[3].note = "something else"
    assert one.signature() == other.signature()
    assert hash(one.signature()) == hash(other.signature())
    assert one.signature().digest() == other.signature().digest()


@pytest.mark.parametrize(
    "change",
    [
        {"constant": 2.5000000000000004},
        {"constant": -2.5},
        {"size": 5},
        {"start": 2},
    ],
)
def test_other_structure_has_another_signature(change):
    assert example().signature() != example(**change).signature()
    assert example().signature().digest() != example(**change).signature().digest()


def test_zeros_of_both_signs_differ_and_nan_is_itself():
    assert example(0.0).signature() != example(-0.0).signature()
    assert example(float("nan")).signature() == example(float("nan")).signature()


def test_outputs_and_their_order_count():
    graph = example()
    graph.outputs.reverse()
    assert graph.signature() != example().signature()


def test_digests_are_the_same_in_every_process():
    code = "from tests.graph.test_structure import example; print(example().signature().digest())"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == example().signature().digest()


def test_printed_graphs_rebuild():
    graph = example()
    text = show(graph)
    again = rebuild(text)
    verify(again)
    assert again.signature() == graph.signature()
    assert show(again) == text
    for a, b in zip(graph.nodes, again.nodes, strict=True):
        assert (a.note, a.source) == (b.note, b.source)


def test_printed_graphs_are_readable():
    graph = Graph("square")
    x = graph.input((2, 3), float32, "x")
    graph.note, graph.source = "loss", ("train.py", 9)
    graph.outputs = [x * x]
    assert show(graph).splitlines() == [
        "def square(graph):",
        "    x = graph.input((2, 3), float32, 'x')                 # float32 (2, 3)",
        "    v1 = ops.multiply(x, x)                               "
        "# float32 (2, 3); loss @ train.py:9",
        "    graph.outputs = [v1]",
    ]


def test_graphs_and_nodes_say_what_they_are():
    graph = example()
    assert str(graph) == show(graph)
    assert repr(graph) == f"<graph step: 3 inputs, {len(graph.nodes)} nodes, 3 outputs>"
    assert repr(graph.inputs[0]) == "<input: float32 (3, 4)>"
    assert "exp: float32 (3, 4), gradient of sqrt" in repr(graph.nodes[2])


def test_rebuild_refuses_other_text():
    with pytest.raises(GraphError, match="must begin with"):
        rebuild("import os")


def test_verify_finds_what_is_wrong():
    graph = example()
    graph.nodes[2].shape = (1,)
    with pytest.raises(GraphError, match=r"node 2, exp \(.*net.py:14\), has float32 \(1,\)"):
        verify(graph)
    graph = example()
    call = graph.outputs[0]
    call.operands = (call, call)
    with pytest.raises(GraphError, match="uses operand 0 before it is computed"):
        verify(graph)
    graph = example()
    graph.outputs.append(example().outputs[0])
    with pytest.raises(GraphError, match="output 3 of step is not in the graph"):
        verify(graph)


def test_interpret_checks_what_it_is_given():
    graph = example()
    with pytest.raises(GraphError, match="has 3 inputs; 1 values"):
        interpret(graph, [np.zeros((3, 4))])
    with pytest.raises(GraphError, match=r"input x has shape \(3, 4\); a value of shape \(4,\)"):
        interpret(graph, [np.zeros(4), 0.5, 0])


def test_sixteen_bit_floats_are_rounded_after_every_call():
    for dtype, big in ((bfloat16, 256.0), (float16, 2048.0)):
        graph = Graph()
        x = graph.input((), dtype)
        graph.outputs = [(x + 1.0) - x]
        assert interpret(graph, [big])[0] == 0


def test_bfloat16_rounds_to_even_and_keeps_specials():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 10_000, np.uint64).astype(np.uint32)
    bits = np.concatenate([bits, bits & 0xFFFF0000 | 0x8000])
    x = bits.view(np.float32)
    expected = torch.tensor(x).to(torch.bfloat16)
    np.testing.assert_array_equal(round_to_bfloat16(x), expected.to(torch.float32).numpy())
    finite = x[np.isfinite(x)]
    stored = to_storage(round_to_bfloat16(finite), bfloat16)
    np.testing.assert_array_equal(from_storage(stored, bfloat16), round_to_bfloat16(finite))


def test_a_failed_check_says_the_index():
    graph = Graph()
    x = graph.input((3,), int64)
    graph.outputs = [ops.check_index(x, size=4, message="label {value} is not below 4")]
    with pytest.raises(IndexOutOfRange, match="label 7 is not below 4"):
        interpret(graph, [np.array([0, 7, 9])])
