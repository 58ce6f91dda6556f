"""Every elementwise primitive lowers for every dtype that it accepts, and means what NumPy says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Value
from avalon.dtype import DType
from avalon.graph.interpret import interpret
from avalon.graph.primitive import Elementwise, Primitive
from tests.codegen.harness import Array, elementwise
from tests.laws.table import PAIRS, Case, cases

PRIMITIVES = [(made, dtype) for made, dtype in PAIRS if made.kind is Elementwise]
NAMES = [f"{made.name}-{dtype.name}" for made, dtype in PRIMITIVES]
# Units in the last place by which a result may differ from NumPy's.
UNITS = {dtypes.float64: 16, dtypes.float32: 4, dtypes.float16: 1, dtypes.bfloat16: 1}


def stored(values: Array, dtype: DType) -> Array:
    """The bytes in memory of reference values."""
    flat = np.ascontiguousarray(values).ravel()
    if dtype is dtypes.bfloat16:
        return (flat.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return flat.astype(dtype.storage)


def read(values: Array, dtype: DType) -> Array:
    """The reference values of bytes in memory."""
    if dtype is dtypes.bfloat16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def compiled(case: Case, result: DType, lanes: int) -> Array:
    """The primitive's lowering, run on the case's operands."""
    rule = case.primitive.rules["lower"]

    def lower(emit: Emit, *values: Value) -> Value:
        value: Value = rule(emit, *values, **case.parameters)
        return value

    operands = [stored(x, t) for x, t in zip(case.operands, case.dtypes, strict=True)]
    return read(
        elementwise(lower, *operands, kinds=case.dtypes, result=result, lanes=lanes), result
    )


@pytest.mark.parametrize(("primitive", "dtype"), PRIMITIVES, ids=NAMES)
def test_lowering_means_the_reference(primitive: Primitive, dtype: DType) -> None:
    largest: dict[str, Case] = {}
    for case in cases(primitive, dtype):
        key = str(case.parameters)
        if key not in largest or case.operands[0].size > largest[key].operands[0].size:
            largest[key] = case
    for case in largest.values():
        graph, _, call = case.graph()
        (expected,) = interpret(graph, case.operands)
        vector = compiled(case, call.dtype, 8)
        np.testing.assert_array_equal(vector, compiled(case, call.dtype, 1))
        wanted: Any = np.asarray(expected).ravel()
        if call.dtype.is_floating_point:
            epsilon = 2.0**-7 if call.dtype is dtypes.bfloat16 else np.finfo(wanted.dtype).eps
            tolerance = UNITS[call.dtype] * float(epsilon)
            np.testing.assert_allclose(vector, wanted, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(vector, wanted)
