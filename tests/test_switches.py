"""Switches: everything that can be left out keeps the bits, and is really left out."""

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.switches import declare, off
from tests.schedule.random_graphs import Maker, values
from tests.schedule.test_same_bits import assert_same, run

NAMES = [switch.name for switch in av.switches()]
SHAPING = [s.name for s in av.switches() if s.kind in ("fusion", "memory")]


def test_every_switch_says_what_it_does():
    assert {"simplify", "undone", "fuse rows", "reuse memory"} <= set(NAMES)
    assert all(switch.what for switch in av.switches())


@pytest.mark.parametrize("name", SHAPING)
def test_without_a_switch_the_bits_stay(name):
    for seed in range(4):
        graph = Maker(seed, dtypes.float32).grow(25)
        given = values(graph, seed)
        with av.without(name):
            found = run(graph, "hot", given)
        assert_same(found, run(graph, "plain", given), graph)


def test_without_anything_the_bits_stay():
    for seed in range(6):
        graph = Maker(seed, dtypes.float32).grow(25)
        given = values(graph, seed)
        with av.without(*NAMES):
            assert_same(run(graph, "hot", given), run(graph, "plain", given), graph)


def softmax_of_product():
    graph = Graph("attention")
    x, w = (graph.input((32, 48), dtypes.float32) for _ in range(2))
    bias = graph.input((32, 32), dtypes.float32)
    y = ops.contract(
        ops.reshape(x, shape=(1, 32, 48)),
        ops.transpose(ops.reshape(w, shape=(1, 32, 48)), permutation=(0, 2, 1)),
    )
    y = ops.tanh(ops.add(ops.reshape(y, shape=(32, 32)), bias))
    largest = ops.reduce_max(y, axes=(1,))
    y = ops.exp(y - ops.broadcast(ops.reshape(largest, shape=(32, 1)), shape=(32, 32)))
    total = ops.reduce_sum(y, axes=(1,))
    soft = y / ops.broadcast(ops.reshape(total, shape=(32, 1)), shape=(32, 32))
    flipped = ops.reverse(soft, axes=(0,)) * soft
    place = ops.argmax(flipped, axis=1)
    drawn = ops.cast(
        graph.append(ops.iota, shape=(32,), axis=0, dtype=dtypes.int32), dtype=dtypes.float32
    )
    graph.outputs = [ops.sin(flipped), ops.cast(place, dtype=dtypes.float32) + drawn, ops.cos(soft)]
    return graph


def chain_of_products():
    graph = Graph("chain")
    x, w = (graph.input((1, 32, 32), dtypes.float32) for _ in range(2))
    bias = ops.broadcast(graph.input((1, 1, 32), dtypes.float32), shape=(1, 32, 32))
    y = x
    for _ in range(4):
        y = ops.tanh(ops.contract(y, w) + bias)
    graph.outputs = [ops.reshape(y, shape=(32, 32))]
    return graph


def described(graph):
    program = compile_graph(graph, "hot")
    return program.plan, program.groups, program.arena_bytes


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("fuse elementwise", softmax_of_product),
        ("fuse reductions", softmax_of_product),
        ("fuse movements", softmax_of_product),
        ("fuse lookups", softmax_of_product),
        ("share kernels", softmax_of_product),
        ("fuse rows", softmax_of_product),
        ("overlap launches", softmax_of_product),
        ("fuse epilogues", chain_of_products),
        ("share buffers", chain_of_products),
        ("reuse memory", chain_of_products),
    ],
)
def test_a_switch_changes_the_program(name, make):
    graph = make()
    with_it = described(graph)
    with av.without(name):
        assert described(graph) != with_it
    assert described(graph) == with_it


def test_a_rule_that_is_off_does_not_apply():
    graph = Graph("twice")
    x = graph.input((3,), dtypes.float32)
    graph.outputs = [ops.tanh(ops.negative(ops.negative(x)))]
    with av.without("undone"):
        assert "negative" in str(steps(graph))
    assert "negative" not in str(steps(graph))


def steps(graph):
    seen = {}
    compile_graph(graph, "hot", show=lambda name, made: seen.setdefault(name, str(made)))
    return seen["dead code"]


def test_programs_of_other_switches_are_not_used():
    def f(x):
        return F.softmax(x * 2, dim=1).sum(0)

    x = av.arange(12.0).reshape(3, 4)
    step = av.compile(f)
    expected = [step(x).numpy().copy() for _ in range(4)][-1]
    whole = len(step.program.plan.launches)
    with av.without("fuse elementwise", "fuse rows", "fuse reductions"):
        apart = [step(x).numpy().copy() for _ in range(4)][-1]
        assert len(step.program.plan.launches) > whole
    np.testing.assert_array_equal(expected, apart)
    step(x)
    assert len(step.program.plan.launches) == whole


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'fuse rows'"), av.without("fuse row"):
        pass
    assert not off()


def test_a_user_can_declare_and_redeclare_a_switch():
    mine = declare("my fusion", "fusion", "mine")
    with av.without("my fusion"):
        assert not mine.on
    assert mine.on
    assert declare("my fusion", "fusion", "mine, again") in av.switches()
    with pytest.raises(ValueError, match="kind is one of"):
        declare("my fusion", "nonsense", "")


def test_an_error_inside_switches_on_again():
    with pytest.raises(KeyError), av.without("fuse rows"):
        raise KeyError
    assert not off()
