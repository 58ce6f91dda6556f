"""Rows and loops that are written once run in both libraries; no timing decides a test.

JAX, which the table needs, forbids its process to fork; rows and loops need PyTorch only.
"""

import numpy as np
import pytest

from benchmarks import attention, layers, loops

SMALL = ("linear_small", "bilinear", "softmax_short", "lstm_cell", "argmax", "batchnorm1d")


@pytest.mark.parametrize("row", [row for row in layers.ROWS if row.name in SMALL], ids=str)
def test_rows_run_forward_and_backward(row):
    for backward in (False, True)[: 1 + row.backward]:
        sides = layers.steps(row, backward)
        assert set(sides) == {"avalon", "torch"}
        for step in sides.values():
            assert step() is not None


def test_rows_have_their_own_names():
    names = [row.name for row in layers.ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["MLP 4-64-64-2", "policy gradient, one row at a time"])
def test_loops_run(name):
    sides = loops.sides(name)
    assert set(sides) == {"avalon", "torch"}
    for run in sides.values():
        run()
        run()


def test_rows_of_attention_agree_in_both_libraries(monkeypatch):
    monkeypatch.setattr(attention, "LENGTHS", (8,))
    for name, row in attention.rows().items():
        sides = layers.steps(row, False)
        ours, theirs = sides["avalon"]().numpy(), sides["torch"]().numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
