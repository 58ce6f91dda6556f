"""Saving and loading models and nested values; errors that change nothing."""

import json

import numpy as np
import pytest

from avalon import safetensors
from avalon.errors import CheckpointError
from avalon.model import load_state_dict, state_dict
from avalon.save import load, save
from avalon.tensor import Tensor, tensor


class Line:
    def __init__(self, slope=1.0, width=2):
        self.slope = tensor(np.full(width, slope, np.float32))
        self.inner = {"origin": tensor([3.0])}


def test_a_model_is_saved_by_names_and_loaded_into_another(tmp_path):
    path = tmp_path / "line.safetensors"
    save(Line(2.0), path)
    assert list(load(path)) == ["slope", "inner.origin"]
    line = Line(0.0)
    alias = line.slope
    assert load(path, into=line) is line
    assert line.slope is alias
    assert line.slope.tolist() == [2.0, 2.0]


def test_nested_values_come_back(tmp_path):
    state = {
        "weights": [tensor([1.0, 2.0]), (tensor([1]), None)],
        "groups": {0: {"lr": 0.1, "betas": (0.9, 0.999), "nesterov": False}},
        "$odd": "text",
        "a.b": {"c": tensor([True])},
        "a": {"b": {"c": tensor([False])}},
        "array": np.arange(3, dtype=np.uint64),
        "big": 2**80,
        "nan": float("inf"),
        "empty": {},
    }
    save(state, tmp_path / "state")
    got = load(tmp_path / "state")
    assert list(got) == list(state)
    assert got["weights"][0].tolist() == [1.0, 2.0]
    assert isinstance(got["weights"][1], tuple)
    assert got["weights"][1][1] is None
    assert got["groups"] == state["groups"]
    assert got["a.b"]["c"].item() is True
    assert got["a"]["b"]["c"].item() is False
    np.testing.assert_array_equal(got["array"], state["array"])
    assert isinstance(got["array"], np.ndarray)
    assert (got["big"], got["nan"], got["empty"]) == (2**80, float("inf"), {})


def test_a_single_tensor(tmp_path):
    save(tensor([[1.0, 2.0]]).t(), tmp_path / "t")
    got = load(tmp_path / "t")
    assert isinstance(got, Tensor)
    assert got.tolist() == [[1.0], [2.0]]


def test_flat_states_are_plain_files_for_everybody(tmp_path):
    save({"x": tensor([1.0])}, tmp_path / "x")
    arrays, metadata = safetensors.read(tmp_path / "x")
    assert metadata == {}
    assert arrays["x"].array.tolist() == [1.0]


def test_pending_and_bfloat16_values_are_computed(tmp_path):
    x = tensor([1.0, 2.0]) * 3
    save({"x": x, "half": (x + 1).bfloat16()}, tmp_path / "x")
    got = load(tmp_path / "x")
    assert got["x"].tolist() == [3.0, 6.0]
    assert got["half"].float().tolist() == [4.0, 7.0]


def test_names_that_do_not_fit_are_listed_with_near_ones():
    line = Line()
    state = {"slop": tensor([5.0, 5.0]), "inner.origin": tensor([5.0])}
    with pytest.raises(CheckpointError) as refused:
        load_state_dict(line, state)
    assert "Missing key(s) in state_dict: 'slope' (the state has 'slop')" in str(refused.value)
    assert "Unexpected key(s) in state_dict: 'slop'" in str(refused.value)
    assert line.inner["origin"].tolist() == [3.0]
    result = load_state_dict(line, state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["slope"], ["slop"])
    assert line.inner["origin"].tolist() == [5.0]


@pytest.mark.parametrize("strict", [True, False])
def test_shapes_that_do_not_fit_change_nothing(strict):
    line = Line()
    state = {"slope": tensor([1.0, 2.0, 3.0]), "inner.origin": tensor([5.0])}
    with pytest.raises(
        CheckpointError,
        match=r"size mismatch for slope: the state has shape \(3,\), the model \(2,\)",
    ):
        load_state_dict(line, state, strict=strict)
    assert line.inner["origin"].tolist() == [3.0]


def test_a_state_is_an_alias():
    line = Line()
    state = state_dict(line)
    line.slope.mul_(4)
    assert state["slope"].tolist() == [4.0, 4.0]


def test_values_that_files_cannot_hold(tmp_path):
    with pytest.raises(CheckpointError, match=r"steps\.0 is a function: files hold tensors"):
        save({"steps": [print and (lambda: 0)]}, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_newer_and_damaged_metadata(tmp_path):
    path = tmp_path / "x"
    safetensors.write(path, {}, {"avalon": "{}", "avalon.format": "9"})
    with pytest.raises(CheckpointError, match="format 9.*use a newer Avalon"):
        load(path)
    safetensors.write(path, {}, {"avalon": json.dumps({"$tensor": "gone"}), "avalon.format": "1"})
    with pytest.raises(CheckpointError, match="is damaged"):
        load(path)
    save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list, not a model's state"):
        load(path, into=Line())
