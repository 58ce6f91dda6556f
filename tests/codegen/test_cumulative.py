"""Running sums and products along rows: one chain a row, whatever runs beside it."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.runtime.buffer import Buffer
from avalon.settings import settings
from tests.codegen.harness import runnable

SHAPES = [(1, 1), (3, 5), (16, 16), (17, 33), (2, 20, 7), (40, 1), (5, 100)]


def chain(x, combine, reverse):
    """Element after element, in the type that `order.accumulator` names."""
    wide = np.float32 if x.dtype == np.float16 else x.dtype
    rows = np.flip(x, -1) if reverse else x
    join = np.add if combine == "cumulative_sum" else np.multiply
    totals = rows.astype(wide)
    with np.errstate(all="ignore"):
        for place in range(1, x.shape[-1]):
            totals[..., place] = join(totals[..., place - 1], totals[..., place])
        totals = totals.astype(x.dtype)
    return np.flip(totals, -1) if reverse else totals


def run(x, name, reverse, tier):
    graph = Graph("running")
    dtype = getattr(dtypes, x.dtype.name)
    operand = graph.input(x.shape, dtype)
    parameters = {"axis": x.ndim - 1, "reverse": reverse}
    graph.outputs.append(graph.call(getattr(ops, name), [operand], parameters))
    (found,) = compile_graph(graph, tier).run([Buffer.from_numpy(x)])
    return np.array(found.as_numpy(dtype, x.shape))


@pytest.mark.parametrize("target", [target.name for target in runnable()])
@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_product"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int8"])
def test_rows_are_chains(target, name, reverse, dtype, monkeypatch):
    monkeypatch.setattr(settings, "target", target)
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        x = (rng.standard_normal(shape) * 3).astype(dtype)
        if x.dtype.kind == "f":
            x[rng.random(shape) < 0.2] = -0.0
            x[rng.random(shape) < 0.02] = np.inf
        expected = chain(x, name, reverse)
        for tier in ("plain", "cold", "hot"):
            found = run(x, name, reverse, tier)
            same = (found == expected) & (np.signbit(found) == np.signbit(expected))
            assert np.all(same | ((found != found) & (expected != expected))), (shape, tier)


def test_leading_zeros_keep_their_sign():
    found = run(np.full((20, 3), -0.0, np.float32), "cumulative_sum", False, "hot")
    assert np.all(np.signbit(found))
