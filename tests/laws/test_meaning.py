"""Law: shape rules give the shape and dtype of the meaning; gradients those of the operands."""

import numpy as np
import pytest

from avalon.differentiation import gradients
from avalon.graph.interpret import interpret, round_to_bfloat16
from avalon.graph.verify import verify
from tests.laws.table import NAMES, PAIRS, cases


@pytest.mark.parametrize(("primitive", "dtype"), PAIRS, ids=NAMES)
def test_shape_rule_is_the_shape_of_the_meaning(primitive, dtype):
    for case in cases(primitive, dtype):
        graph, _, call = case.graph()
        verify(graph)
        (value,) = interpret(graph, case.operands)
        assert value.shape == call.shape, case
        assert value.dtype == call.dtype.reference, case
        if call.dtype.name == "bfloat16":
            np.testing.assert_array_equal(value, round_to_bfloat16(value))


@pytest.mark.parametrize(("primitive", "dtype"), PAIRS, ids=NAMES)
def test_gradients_have_the_types_of_the_operands(primitive, dtype):
    for case in cases(primitive, dtype):
        graph, inputs, call = case.graph()
        if not call.dtype.is_floating_point:
            continue
        seed = graph.input(call.shape, call.dtype, "seed")
        found = gradients(graph, [call], inputs, [seed])
        verify(graph)
        for node, gradient in zip(inputs, found, strict=True):
            if gradient is not None:
                assert (gradient.shape, gradient.dtype) == (node.shape, node.dtype), case
            else:
                assert primitive.no_gradient_reason or not node.dtype.is_floating_point, case
