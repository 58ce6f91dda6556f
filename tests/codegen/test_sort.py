"""Sorting and selecting: the stable order, by every way that the kernels take."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.codegen.sort import capacity_of
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.runtime.buffer import Buffer
from avalon.settings import settings
from tests.codegen.harness import runnable

# Rows that are merged, dealt out, and selected from; along other axes too.
CASES = [
    ((3, 7), 1, 7),
    ((2, 63), 1, 63),
    ((2, 64), 1, 10),
    ((3, 500), 1, 500),
    ((70, 3), 0, 70),
    ((2, 3000, 2), 1, 20),
    ((2, 2500), 1, 2500),
    ((2, 2050), 1, 1),
    ((3, 5003), 1, 17),
]
DTYPES = ["float32", "float64", "float16", "int8", "int32", "int64", "uint8", "bool"]


def run(x, axis, descending, count, tier):
    dtype = dtypes.bool_ if x.dtype == bool else getattr(dtypes, x.dtype.name)
    graph = Graph("order")
    parameters = {"axis": axis, "descending": descending, "count": count}
    graph.outputs.append(graph.call(ops.argsort, [graph.input(x.shape, dtype)], parameters))
    (found,) = compile_graph(graph, tier).run([Buffer.from_numpy(np.ascontiguousarray(x))])
    return np.array(found.as_numpy(dtypes.int64, graph.outputs[0].shape))


def fillings(rng, shape, dtype):
    """Values with many equal ones, special ones, and in the order that is worst for selecting."""
    yield rng.integers(0, 2 if dtype == "bool" else 9, shape).astype(dtype)
    if dtype.startswith("float"):
        x = (rng.standard_normal(shape) * 100).astype(dtype)
        special = rng.choice([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7], shape)
        yield np.where(rng.random(shape) < 0.3, special, x).astype(dtype)
        yield np.full(shape, np.nan, dtype)
    elif dtype in ("int32", "int64"):
        limits = np.iinfo(dtype)
        yield rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    yield np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("descending", [False, True])
def test_the_order_is_stable(dtype, descending):
    rng = np.random.default_rng(0)
    for shape, axis, count in CASES:
        for x in fillings(rng, shape, dtype):
            expected = ops.argsort.reference(x, axis=axis, descending=descending, count=count)
            found = run(x, axis, descending, count, "hot")
            np.testing.assert_array_equal(found, expected, str((shape, axis, count)))


@pytest.mark.parametrize("target", [target.name for target in runnable()])
@pytest.mark.parametrize("tier", ["plain", "cold"])
def test_tiers_and_widths_agree(target, tier, monkeypatch):
    monkeypatch.setattr(settings, "target", target)
    rng = np.random.default_rng(1)
    for shape, axis, count in CASES:
        x = rng.integers(-50, 50, shape).astype(np.float32)
        expected = ops.argsort.reference(x, axis=axis, descending=True, count=count)
        np.testing.assert_array_equal(run(x, axis, True, count, tier), expected)


def test_selecting_needs_little_memory():
    assert capacity_of(32000, 1, 50) < 500
    assert capacity_of(32000, 4, 50) == 32000  # only neighbours are passed over
    assert capacity_of(300, 1, 50) == 300
