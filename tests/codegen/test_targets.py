"""Kernels of every primitive are assembled for machines not at hand, and call nothing."""

from __future__ import annotations

import pytest

from avalon import dtype as dtypes
from avalon.codegen.target import host, named
from avalon.compiler import plan_graph
from avalon.dtype import DType
from avalon.graph.graph import Graph
from avalon.graph.primitive import Primitive
from tests.codegen.harness import calls
from tests.laws.table import PAIRS, cases

KINDS = (dtypes.float32, dtypes.int64)
CHOSEN = [
    (made, dtype) for made, dtype in PAIRS if dtype in KINDS and made.name != "host_call"
]  # fmt: skip
NAMES = [f"{made.name}-{dtype.name}" for made, dtype in CHOSEN]


@pytest.mark.parametrize("name", ["neon", "x86"])
@pytest.mark.parametrize(("primitive", "dtype"), CHOSEN, ids=NAMES)
def test_kernels_assemble_everywhere(primitive: Primitive, dtype: DType, name: str) -> None:
    target = named(name)
    graph = Graph(primitive.name)
    for case in list(cases(primitive, dtype))[-2:]:
        operands = [
            graph.input(x.shape, kind) for x, kind in zip(case.operands, case.dtypes, strict=True)
        ]
        graph.outputs.append(graph.call(primitive, operands, case.parameters))
    for tier in ("cold", "hot"):
        for kernel in plan_graph(graph, tier, target).kernels.values():
            assert calls(kernel.text, target) == []


def test_the_host_is_one_of_the_sets_and_knows_its_processor() -> None:
    target = host()
    assert target is host()
    assert named("") is target
    assert target.cpu
    if target.name != "plain":
        assert target.lanes == named(target.name).lanes
        assert target.is_x86 == named(target.name).is_x86
