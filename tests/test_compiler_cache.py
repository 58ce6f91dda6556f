"""What the compiler keeps on disk, and what it must not."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import compiler, dtype
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.ops import add, tanh
from avalon.runtime import library
from avalon.runtime.buffer import Buffer
from avalon.settings import settings


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "cache", tmp_path)
    library.forget()


@pytest.fixture
def planned(monkeypatch):
    """The graphs that were planned, not read."""
    graphs = []
    plan_graph = compiler.plan_graph

    def planning(graph, *others):
        graphs.append(graph)
        return plan_graph(graph, *others)

    monkeypatch.setattr(compiler, "plan_graph", planning)
    return graphs


def sample(source=("train.py", 7)):
    graph = Graph("sample")
    x = graph.input((3,), dtype.float32)
    graph.outputs = [tanh(add(x, x))]
    for node in graph.nodes:
        node.source = source
    return graph


def test_a_hot_plan_is_read_in_a_later_process(planned):
    first = compile_graph(sample())
    library.forget()
    second = compile_graph(sample())
    assert len(planned) == 1
    assert (first.built, second.built) == (len(first.plan.kernels), 0)
    (result,) = second.run([Buffer.from_numpy(np.ones(3, "float32"))])
    assert result.as_numpy(dtype.float32, (3,)) == pytest.approx(np.tanh(2.0))


def test_a_small_cold_plan_is_made_anew(planned, monkeypatch):
    monkeypatch.setattr(compiler, "_WORTH_KEEPING_SECONDS", 1e9)
    compile_graph(sample(), "cold")
    compile_graph(sample(), "cold")
    assert len(planned) == 2


def test_a_large_cold_plan_is_kept(planned, monkeypatch):
    monkeypatch.setattr(compiler, "_WORTH_KEEPING_SECONDS", 0.0)
    compile_graph(sample(), "cold")
    compile_graph(sample(), "cold")
    assert len(planned) == 1


def test_a_plan_is_of_one_tier_and_of_the_lines_that_it_names(planned):
    compile_graph(sample(), "hot")
    compile_graph(sample(), "plain")
    compile_graph(sample(source=("train.py", 8)), "hot")
    assert len(planned) == 3


def test_a_compiler_with_passes_from_outside_keeps_nothing(planned, monkeypatch):
    compile_graph(sample())
    monkeypatch.setattr(compiler, "PASSES", ())
    compile_graph(sample())
    compile_graph(sample())
    assert len(planned) == 3


def test_what_is_shown_is_made_not_read(planned):
    compile_graph(sample())
    seen = []
    compile_graph(sample(), show=lambda name, made: seen.append(name))
    assert seen[0] == "graph"
    assert seen[-1] == "plan"
