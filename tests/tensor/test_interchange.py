"""Tensors beside NumPy, DLPack, pickle, deepcopy and Python's own conversions."""

import copy
import gc
import pickle

import numpy as np
import pytest
import torch

import avalon as av


def test_from_numpy_shares_both_ways():
    array = np.arange(6.0).reshape(2, 3)
    x = av.from_numpy(array)
    before = x + 0  # reads what is there now
    array[0, 0] = 100
    assert x[0, 0].item() == 100.0
    assert before[0, 0].item() == 0.0
    x[1] = -1
    assert array[1].tolist() == [-1, -1, -1]
    x.t().mul_(2)
    assert array[0].tolist() == [200, 2, 4]


def test_from_numpy_of_strided_arrays():
    array = np.arange(24.0).reshape(4, 6)
    part = array[1::2, ::3]
    x = av.from_numpy(part)
    assert x.stride() == (12, 3)
    assert x.tolist() == part.tolist()
    x += 1
    assert array[1, 0] == 7.0
    with pytest.raises(ValueError, match="negative"):
        av.from_numpy(array[::-1])
    with pytest.raises(TypeError, match="no counterpart"):
        av.from_numpy(np.array(["a"]))


def test_batches_of_a_shared_array_copy_only_the_batch():
    array = np.arange(4_000_000, dtype=np.float32).reshape(1000, 4000)
    x = av.from_numpy(array)
    rows = np.array([5, 999, 5])
    batch = x[rows]
    assert batch.value().known
    assert batch.tolist() == array[rows].tolist()
    assert x[rows, 3].tolist() == array[rows, 3].tolist()
    assert x[:, [1, 2]].tolist() == array[:, [1, 2]].tolist()
    assert x[[-1]].tolist() == array[[-1]].tolist()
    array[5] = 0
    assert batch[0, 1].item() == 20001.0


def test_numpy_is_a_view_both_ways():
    x = av.tensor([1.0, 2.0, 3.0])
    array = x.numpy()
    array[0] = 10
    assert x.tolist() == [10.0, 2.0, 3.0]
    x.mul_(2)
    assert array.tolist() == [20.0, 4.0, 6.0]
    y = x[1:].numpy()
    y[:] = 0
    assert x.tolist() == [20.0, 0.0, 0.0]
    del array, y
    gc.collect()
    assert (x + 1).tolist() == [21.0, 1.0, 1.0]
    assert x._cell.memory is None


def test_numpy_of_transposed_results_keeps_aliasing():
    x = av.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).t() + 1
    array = x.numpy()
    assert array.strides == (4, 12)
    x.t().view(-1)[0] = 50
    assert array[0, 0] == 50.0


def test_values_saved_for_backward_are_safe_from_numpy():
    x = av.tensor([1.0, 2.0], requires_grad=True)
    w = av.tensor([3.0, 4.0])
    y = (x * w).sum()
    w.numpy()[:] = 0
    y.backward()
    assert x.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("operate", ["add", "subtract", "multiply", "true_divide", "less"])
def test_arrays_and_tensors_mix_in_either_order(operate):
    import operator

    function = {
        "add": operator.add, "subtract": operator.sub, "multiply": operator.mul,
        "true_divide": operator.truediv, "less": operator.lt,
    }[operate]  # fmt: skip
    array = np.array([1.0, 2.0, 4.0])
    x = av.tensor([2.0, 2.0, 2.0])
    for one, other in ((array, x), (x, array)):
        found = function(one, other)
        assert isinstance(found, av.Tensor)
        expected = function(np.asarray(one, np.float64), np.asarray(other, np.float64))
        assert found.tolist() == expected.tolist()
    assert isinstance(np.float64(2) * x, av.Tensor)
    assert (np.float64(2) * x).dtype is av.float32


def test_array_protocols():
    x = av.tensor([[1.0, 2.0]])
    assert np.asarray(x).tolist() == [[1.0, 2.0]]
    assert np.array(x, dtype=np.int64).tolist() == [[1, 2]]
    assert np.linalg.norm(x) == pytest.approx(5**0.5)
    assert np.from_dlpack(x).tolist() == [[1.0, 2.0]]
    assert torch.from_dlpack(x).tolist() == [[1.0, 2.0]]
    assert av.from_dlpack(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    with pytest.raises(RuntimeError, match="requires grad"):
        np.asarray(av.tensor([1.0], requires_grad=True))
    with pytest.raises(TypeError, match="bfloat16"):
        av.tensor([1.0], dtype=av.bfloat16).numpy()


def test_python_conversions():
    assert av.tensor(3).item() == 3
    assert isinstance(av.tensor(3).item(), int)
    assert float(av.tensor([2.5])) == 2.5
    assert int(av.tensor(2.9)) == 2
    assert [1, 2, 3][av.tensor(1)] == 2
    assert bool(av.tensor([0.0])) is False
    assert list(range(av.tensor(3))) == [0, 1, 2]
    assert len(av.zeros(4, 2)) == 4
    assert [row.tolist() for row in av.tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]
    assert 2 in av.tensor([1, 2])
    assert f"{av.tensor(1.25):.1f}" == "1.2"
    two = av.tensor([1, 2])
    for wrong in (two.item, lambda: bool(two), lambda: bool(av.ones(0))):
        with pytest.raises(RuntimeError):
            wrong()
    with pytest.raises(TypeError):
        len(av.tensor(1))
    with pytest.raises(TypeError):
        iter(av.tensor(1))


def test_equality_and_hash():
    x = av.tensor([1, 2])
    assert (x == av.tensor([1, 3])).tolist() == [True, False]
    assert (x == None) is False  # noqa: E711
    assert len({x, x, av.tensor([1, 2])}) == 2
    assert {x: 5}[x] == 5


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64", "int8", "uint8", "bool"])
def test_dtypes_go_through(name):
    x = av.tensor([0, 1, 2.5]).to(getattr(av, name))
    expected = torch.tensor([0, 1, 2.5]).to(getattr(torch, name))
    assert x.tolist() == expected.tolist()
    assert pickle.loads(pickle.dumps(x)).tolist() == x.tolist()
    assert av.tensor(x.tolist(), dtype=x.dtype).dtype is x.dtype
    assert repr(x) == repr(expected).replace("torch.", "avalon.")


def test_complex_storage():
    x = av.tensor([1 + 2j, 3.0])
    assert x.dtype is av.complex64
    assert x.tolist() == [1 + 2j, 3 + 0j]
    assert pickle.loads(pickle.dumps(x)).tolist() == x.tolist()


def test_pickle_and_deepcopy():
    x = av.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    x.note = "mine"
    (x * 2).sum().backward()
    pending = x.detach() * 2
    for again in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert again.tolist() == x.tolist()
        assert again.requires_grad
        assert again.is_leaf
        assert again.note == "mine"
    assert copy.deepcopy(x).grad.tolist() == x.grad.tolist()
    assert pickle.loads(pickle.dumps(pending)).tolist() == [[2.0, 4.0], [6.0, 8.0]]
    base = av.zeros(4)
    view = base[1:3]
    for base2, view2 in (copy.deepcopy((base, view)), pickle.loads(pickle.dumps((base, view)))):
        view2.fill_(1)
        assert base2.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert base.tolist() == [0.0] * 4
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(x * 2)


PRINTED = [
    [1.0, 2.0], [1.5, 2.25], [[1, 2], [3, 40]], 3.0, 5, [], [True, False], [1e10, 1.0], [1e-5, 1.0],
    [float("nan"), 1.0], [float("inf"), -1.0], [[1.0], [-2.5]], [1e-8], [0.0, 1234.5], [[[1.0]]],
    list(range(40)), [123456.0, 0.5],
]  # fmt: skip


@pytest.mark.parametrize("data", PRINTED, ids=str)
def test_printing(data):
    assert repr(av.tensor(data)) == repr(torch.tensor(data))


def test_printing_large_and_special():
    t = torch.arange(10_000.0).reshape(100, 100)
    assert repr(av.tensor(t.tolist())) == repr(t)
    t = torch.arange(2000)
    assert repr(av.tensor(t.tolist())) == repr(t)
    t = torch.ones(2, requires_grad=True)
    x = av.ones(2, requires_grad=True)
    assert repr(x) == repr(t)
    assert "grad_fn=<multiply backward>" in repr(x * x)
    assert repr(av.zeros(0, 3)) == "tensor([], size=(0, 3))"


def test_tensor_from_awkward_data():
    assert av.tensor([av.tensor(1.0), 2.0]).tolist() == [1.0, 2.0]
    assert av.tensor([[1, 2], [3.5, 4]]).dtype is av.float32
    assert av.tensor(range(3)).tolist() == [0, 1, 2]
    assert av.tensor(np.float64(2)).dtype is av.float64
    assert av.tensor([np.float32(1), np.float32(2)]).dtype is av.float32
    with pytest.raises(ValueError, match="equal lengths"):
        av.tensor([[1, 2], [3]])
    with pytest.raises(TypeError):
        av.tensor(["a"])
    with pytest.raises(RuntimeError, match="not available here"):
        av.tensor([1], device="cuda")


def test_views_see_what_numpy_wrote_after_the_array_is_gone():
    x = av.tensor([1.0, 2.0, 3.0])
    view = x[1:]
    assert view.tolist() == [2.0, 3.0]
    x.numpy()[:] = 7
    gc.collect()
    assert view.tolist() == [7.0, 7.0]
    assert (view * 2).tolist() == [14.0, 14.0]
