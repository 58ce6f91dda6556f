"""Result types are PyTorch's, for all pairs of dtypes, for numbers and zero-dimensional tensors."""

import itertools
import operator

import pytest
import torch

import avalon as av

NAMES = [
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "bool",
]
NUMBERS = [True, 2, 2.5]


def both(name, shape):
    data = 1 if shape == () else [1, 2]
    return (
        torch.tensor(data).to(getattr(torch, name)),
        av.tensor(data).to(getattr(av, name)),
    )


def name_of(dtype):
    return str(dtype).rpartition(".")[2]


@pytest.mark.parametrize("first", NAMES)
def test_result_type_of_tensors(first):
    for second, one, other in itertools.product(NAMES, [(), (2,)], [(), (2,)]):
        t1, a1 = both(first, one)
        t2, a2 = both(second, other)
        expected = name_of(torch.result_type(t1, t2))
        assert name_of(av.result_type(a1, a2)) == expected, (first, one, second, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_weak(name, number):
    for shape in [(), (2,)]:
        t, a = both(name, shape)
        for operate in (operator.add, operator.mul, operator.truediv, operator.lt):
            expected, found = operate(t, number), operate(a, number)
            assert name_of(found.dtype) == name_of(expected.dtype), (name, number, operate)
            assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("operate", [operator.add, operator.sub, operator.mul, operator.pow])
@pytest.mark.parametrize("name", NAMES)
def test_operators_reflected(operate, name):
    t, a = both(name, (2,))
    for number in (2, 2.5):
        try:
            expected = operate(number, t)
        except RuntimeError:
            with pytest.raises((RuntimeError, TypeError)):
                operate(number, a)
            continue
        found = operate(number, a)
        assert name_of(found.dtype) == name_of(expected.dtype)
        assert found.float().tolist() == pytest.approx(expected.float().tolist(), rel=1e-2)


def test_integers_wrap_around():
    assert (av.tensor([200], dtype=av.uint8) + 100).tolist() == [44]
    assert (av.tensor([127], dtype=av.int8) + 1).tolist() == [-128]
    assert (av.tensor([1], dtype=av.uint8) - 2).tolist() == [255]


@pytest.mark.parametrize("name", ["int64", "int32", "uint8"])
def test_division_and_remainder_of_integers(name):
    values = [-7, -1, 0, 1, 7] if name != "uint8" else [0, 1, 7]
    t = torch.tensor(values).to(getattr(torch, name))
    a = av.tensor(values).to(getattr(av, name))
    for divisor in (2, 3) if name == "uint8" else (2, -3):
        assert (a // divisor).tolist() == (t // divisor).tolist()
        assert (a % divisor).tolist() == (t % divisor).tolist()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        a // 0


def test_in_place_keeps_the_dtype():
    x = av.tensor([1, 2])
    with pytest.raises(RuntimeError, match="result type float32 can't be cast to .* int64"):
        x.add_(1.5)
    with pytest.raises(RuntimeError, match="can't be cast"):
        x /= 2
    y = av.tensor([1.0, 2.0])
    y += av.tensor([1, 2])
    assert y.tolist() == [2.0, 4.0]


def test_default_dtype():
    av.set_default_dtype(av.float64)
    try:
        assert av.tensor(1.5).dtype is av.float64
        assert (av.tensor([1]) / 2).dtype is av.float64
    finally:
        av.set_default_dtype(av.float32)
    with pytest.raises(TypeError, match="only floating-point types"):
        av.set_default_dtype(av.int64)


def test_shapes_that_do_not_broadcast():
    with pytest.raises(RuntimeError, match=r"\[add\] shapes \(2,\) and \(3,\) do not broadcast"):
        av.tensor([1, 2]) + av.tensor([1, 2, 3])


def test_bool_arithmetic():
    t, f = av.tensor([True, False]), av.tensor([True, True])
    assert (t + f).tolist() == [True, True]
    assert (t * f).tolist() == [True, False]
    with pytest.raises(RuntimeError, match="not supported"):
        t - f
    with pytest.raises(RuntimeError, match="not supported"):
        operator.neg(t)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 0.5, -0.5, -1, -2, 2.5, 4])
def test_powers(exponent):
    values = [0.5, 1.0, 2.0, 3.0]
    t = torch.tensor(values, requires_grad=True)
    a = av.tensor(values, requires_grad=True)
    (t**exponent).sum().backward()
    (a**exponent).sum().backward()
    torch.testing.assert_close(torch.tensor((a**exponent).tolist()), (t**exponent).detach())
    torch.testing.assert_close(torch.tensor(a.grad.tolist()), t.grad)


def test_an_exponent_that_varies_is_no_structure():
    x = av.tensor([2.0, 3.0])
    found = [(x**exponent).tolist() for exponent in (4, 5, 6.5)]
    assert found[1] == [32.0, 243.0]


@pytest.mark.parametrize("dtype", [av.float64, av.float32, av.bfloat16, av.int32], ids=repr)
@pytest.mark.parametrize("value", [0.3, -1.7, 16777217.0])
def test_a_number_that_fills_is_rounded_once(value, dtype):
    expected = av.tensor(value, dtype=av.float64).to(dtype).item()
    assert av.full((2,), value, dtype=dtype).tolist() == [expected] * 2
    assert av.full_like(av.zeros(2, dtype=dtype), value).tolist() == [expected] * 2
    assert av.zeros(2, dtype=dtype).new_full((1,), value).tolist() == [expected]
