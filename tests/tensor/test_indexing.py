"""Reading and writing by index: the same elements, strides and errors as in PyTorch."""

import random

import numpy as np
import pytest
import torch

import avalon as av


def tensors(shape, requires=False):
    data = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    t, a = torch.tensor(data), av.tensor(data)
    if requires:
        t.requires_grad_()
        a.requires_grad_()
    return t, a


INDICES = [
    0, -1, slice(None), slice(1, None), slice(None, None, 2), slice(5, 9), None, Ellipsis, (0,
    1), (slice(None), 1), (Ellipsis, 0), (None, 0, None), (0, Ellipsis, None), ([0, 1],), ([1,
    0], [0, 1]), (slice(None), [0, 2]), (slice(None), [0, 2], 1), ([0, 1], slice(None), [1, 0]),
    (0, [0, 2]), ([[0, 1], [1, 0]],), (slice(1, None), None, [1]), (Ellipsis, [1, 0]), True,
    False, (True, 0), [], (slice(0, 0),), ([0], [1], [2]), (slice(None), [2, 0, 1], [1, 0, 3]),
    (-1, slice(None, None, 3)),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_reading(index):
    t, a = tensors((2, 3, 4), requires=True)
    expected, found = t[index], a[index]
    assert found.shape == tuple(expected.shape)
    assert found.tolist() == expected.tolist()
    weights = np.arange(expected.numel(), dtype=np.float32).reshape(expected.shape)
    expected.backward(torch.tensor(weights))
    found.backward(av.tensor(weights))
    assert a.grad.tolist() == t.grad.tolist()


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_writing_numbers_and_tensors(index):
    t, a = tensors((2, 3, 4))
    t[index] = 7
    a[index] = 7
    assert a.tolist() == t.tolist()
    t, a = tensors((2, 3, 4))
    new = np.random.default_rng(0).normal(size=t[index].shape).astype(np.float32)
    t[index] = torch.tensor(new)
    a[index] = av.tensor(new)
    assert a.tolist() == t.tolist()


def test_writing_carries_gradients():
    t, a = tensors((3, 4), requires=True)
    tv, avalue = tensors((2, 4), requires=True)
    t2, a2 = t * 1, a * 1
    t2[[0, 2]] = tv * 3
    a2[[0, 2]] = avalue * 3
    (t2 * t2).sum().backward()
    (a2 * a2).sum().backward()
    assert a.grad.tolist() == t.grad.tolist()
    assert avalue.grad.tolist() == tv.grad.tolist()


def test_masks():
    t, a = tensors((2, 3))
    assert a[a > 2].tolist() == t[t > 2].tolist()
    assert a[a.numpy() > 2].tolist() == t[t > 2].tolist()
    assert a[a[:, 0] > 0].tolist() == t[t[:, 0] > 0].tolist()
    t[t > 3] = -1
    a[a > 3] = -1
    assert a.tolist() == t.tolist()
    t[t < 0] = torch.tensor([5.0, 6.0])
    a[a < 0] = av.tensor([5.0, 6.0])
    assert a.tolist() == t.tolist()
    a[a > 4] += 1
    t[t > 4] += 1
    assert a.tolist() == t.tolist()


def test_arrays_and_tensors_as_indices():
    t, a = tensors((5, 2))
    where = np.array([3, -1, 0])
    assert a[where].tolist() == t[where].tolist()
    assert a[av.tensor(where)].tolist() == t[torch.tensor(where)].tolist()
    assert a[av.tensor(2)].tolist() == t[torch.tensor(2)].tolist()
    assert a[av.tensor([1], dtype=av.int32), 1].tolist() == [3.0]


@pytest.mark.parametrize("index", [2, -3, (0, 5), ([0, 9],), (0, 0, 0), (0.5,), "a"], ids=str)
def test_errors(index):
    t, a = tensors((2, 3))
    with pytest.raises((IndexError, TypeError)):
        t[index]
    with pytest.raises((IndexError, TypeError)):
        a[index]


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="step must be positive"):
        av.tensor([1, 2])[::-1]


def test_known_indices_are_checked_at_once():
    x = av.tensor([1.0, 2.0])
    with pytest.raises(IndexError, match="index 5 is out of bounds for dimension with size 2"):
        x[[0, 5]]


def test_pending_indices_are_checked_when_computed():
    x = av.tensor([1.0, 2.0])
    y = x[av.tensor([0, 2]) + 3]
    for _ in range(2):
        with pytest.raises(IndexError, match="out of bounds"):
            y.tolist()
    assert x.tolist() == [1.0, 2.0]


def test_random_indices_match():
    choices = random.Random(0)
    for _ in range(150):
        shape = tuple(choices.randint(1, 4) for _ in range(choices.randint(1, 4)))
        t, a = tensors(shape)
        items = []
        for extent in shape[: choices.randint(1, len(shape))]:
            items.append(choices.choice([
                choices.randrange(-extent, extent),
                slice(choices.choice([None, 0, 1]), choices.choice([None, 2, -1])),
                [choices.randrange(extent) for _ in range(2)],
            ]))  # fmt: skip
        expected, found = t[tuple(items)], a[tuple(items)]
        assert found.tolist() == expected.tolist(), (shape, items)
        if expected.numel():
            pairs = zip(found.stride(), expected.stride(), expected.shape, strict=True)
            assert all(one == other or extent == 1 for one, other, extent in pairs), (shape, items)
