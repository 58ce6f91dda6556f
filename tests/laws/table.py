"""The cases of the law tests: every primitive, every dtype it accepts, every sample it declares."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from avalon import dtype as dtypes, ops
from avalon.dtype import DType
from avalon.graph.graph import Graph
from avalon.graph.interpret import round_to_bfloat16
from avalon.graph.node import Call, Input
from avalon.graph.primitive import ACCEPTS, Primitive, table

Array = np.ndarray[Any, np.dtype[Any]]
REAL = tuple(dtype for dtype in dtypes.ALL if not dtype.is_complex)

assert ops.add is table()["add"]  # importing ops fills the table


class Case:
    """One call: a primitive, its operands' values and dtypes, its parameters."""

    def __init__(
        self,
        primitive: Primitive,
        operands: Sequence[Array],
        parameters: dict[str, Any],
        dtype: DType,
    ) -> None:
        self.primitive = primitive
        self.parameters = parameters
        self.dtypes = tuple(
            dtype if x.dtype == dtype.reference else dtypes.from_numpy(x.dtype) for x in operands
        )
        self.operands = [
            round_to_bfloat16(x) if kind is dtypes.bfloat16 else np.asarray(x)
            for x, kind in zip(operands, self.dtypes, strict=True)
        ]

    def graph(self) -> tuple[Graph, list[Input], Call]:
        """The call as a graph of its own."""
        graph = Graph(self.primitive.name)
        inputs = [graph.input(x.shape, t) for x, t in zip(self.operands, self.dtypes, strict=True)]
        call = graph.call(self.primitive, inputs, self.parameters)
        if call.dtype is dtypes.several:
            call = joined(graph, call)
        graph.outputs = [call]
        return graph, inputs, call

    def __repr__(self) -> str:
        types = ", ".join(
            f"{t.name}{x.shape}" for x, t in zip(self.operands, self.dtypes, strict=True)
        )
        return f"{self.primitive.name}({types}; {self.parameters})"


def joined(graph: Graph, call: Call) -> Call:
    """The results of a call that has several, flat and one after the other in the first's dtype."""
    parts = []
    for index, (shape, dtype) in enumerate(call.results):
        part = graph.call(ops.result, [call], {"index": index})
        if dtype is not call.results[0][1]:
            part = ops.cast(part, dtype=call.results[0][1])
        parts.append(ops.reshape(part, shape=(int(np.prod(shape)),)))
    return parts[0] if len(parts) == 1 else ops.concatenate(*parts, axis=0)


def accepted(primitive: Primitive) -> list[DType]:
    """The dtypes under which the primitive has samples."""
    return [dtype for dtype in REAL if next(cases(primitive, dtype), None) is not None]


def cases(primitive: Primitive, dtype: DType) -> Iterator[Case]:
    """The samples of a primitive in one dtype; none if it does not accept it."""
    wanted = primitive.accepts
    if isinstance(wanted, str) and wanted not in ("index", "word") and not ACCEPTS[wanted](dtype):
        return
    rng = np.random.default_rng(zlib.crc32(f"{primitive.name} {dtype.name}".encode()))
    for operands, parameters in primitive.samples(rng, dtype):
        case = Case(primitive, operands, parameters, dtype)
        if dtype not in (*case.dtypes, *parameters.values()) and dtype is not dtypes.uint64:
            return  # the samples do not depend on the dtype; they are tried once
        limits = [wanted] * len(operands) if isinstance(wanted, str) else wanted
        if all(
            ACCEPTS[limits[min(i, len(limits) - 1)]](kind) for i, kind in enumerate(case.dtypes)
        ):
            yield case


PAIRS = [(primitive, dtype) for primitive in table().values() for dtype in accepted(primitive)]
NAMES = [f"{primitive.name}-{dtype.name}" for primitive, dtype in PAIRS]
