"""Results of replayed calls: whoever keeps anything of one is never overwritten by a later call."""

import gc
import weakref

import numpy as np
import pytest

import avalon as av


@pytest.fixture
def step():
    """A step whose replay is bound; its results are small."""
    weight = av.tensor([1.0, 2.0, 3.0])

    @av.compile
    def step(x):
        return x * weight

    for _ in range(5):
        step(av.ones(3))
    assert step._replays[0].quick is not None
    return step


def full(number):
    return av.full((3,), float(number))


KEPT = {
    "the tensor": lambda y: y,
    "an alias": lambda y: y.detach(),
    "a clone": lambda y: y.clone(),
    "a view": lambda y: y[1:],
    "pending work": lambda y: y * 1,
    "a sum that waits": lambda y: y.sum(),
    "an array": lambda y: y.numpy(),
    "a part of an array": lambda y: y.numpy()[1:],
    "its memory": lambda y: memoryview(y.numpy()),
    "what NumPy made of it": lambda y: np.from_dlpack(y),
    "a tensor on the array": lambda y: av.from_numpy(y.numpy()),
    "what took over its memory": lambda y: y.mul_(1),
}


@pytest.mark.parametrize("kept", KEPT)
def test_what_is_kept_of_a_result_stays(step, kept):
    first = [KEPT[kept](step(full(k))) for k in range(3)]
    for k in range(5):
        step(full(100 + k)).tolist()
    plain = [KEPT[kept](full(k) * av.tensor([1.0, 2.0, 3.0])) for k in range(3)]
    for found, expected in zip(first, plain, strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_a_result_that_nobody_kept_serves_again(step):
    address = step(full(1))._cell.value.buffer.address
    for k in range(4):
        result = step(full(k))
        assert result._cell.value.buffer.address == address
        assert result.numpy().tolist() == [k, 2.0 * k, 3.0 * k]
        del result


def test_a_cell_that_serves_again_is_as_good_as_new(step):
    step(full(1)).numpy()[...] = 7
    step(full(1)).add_(5)
    again = step(full(2))
    assert again._version == 0
    assert again._cell.memory is None
    assert again.tolist() == [2.0, 4.0, 6.0]
    assert again.requires_grad_().grad is None


def test_a_result_dies_with_its_last_holder(step):
    result = weakref.ref(step(full(1)))
    gc.collect()
    assert result() is None


def test_large_results_do_not_wait_for_the_next_call():
    @av.compile
    def double(x):
        return x * 2

    x = av.ones(2000)
    for _ in range(5):
        double(x)
    cell = weakref.ref(double(x)._cell)
    assert cell() is None


def test_the_same_tensor_twice_in_a_result():
    @av.compile
    def twice(x):
        y = x + 1
        return y, y, [y * 2]

    for k in range(6):
        one, two, (three,) = twice(full(k))
        assert one.tolist() == two.tolist() == [k + 1.0] * 3
        assert three.tolist() == [2 * k + 2.0] * 3


def test_a_result_given_to_the_next_call(step):
    x = full(1)
    for k in range(6):
        x = step(x)
        assert x.tolist() == [1.0, 2.0 ** (k + 1), 3.0 ** (k + 1)]
