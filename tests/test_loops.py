"""scan, cond and while_loop: the values and gradients of the Python loops that they stand for."""

import numpy as np
import pytest
import torch

import avalon as av
from avalon.errors import AutogradError, ShapeError, TraceError
from avalon.settings import settings


@pytest.fixture(params=["auto", "plain", "hot"])
def tier(request):
    before = settings.tier
    settings.tier = request.param
    yield request.param
    settings.tier = before


def recurrence(scan, w, b, h, xs, reverse=False):
    """A recurrent net that reads w and b from outside."""

    def body(h, x):
        h = av.tanh(x @ w + h * b)
        return h, h.sum(-1)

    if scan:
        return av.scan(body, h, xs, reverse=reverse)
    places = range(xs.shape[0])
    ys = []
    for place in reversed(places) if reverse else places:
        h, y = body(h, xs[place])
        ys.append(y)
    return h, av.stack(ys[::-1] if reverse else ys)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_scan_is_the_loop_it_stands_for(length, reverse, tier):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s) for s in ((3, 4), (4,), (2, 4), (length, 2, 3))]
    found = []
    for scan in (True, False):
        tensors = [av.tensor(a, requires_grad=True) for a in arrays]
        h, ys = recurrence(scan, *tensors, reverse)
        ((h * h).sum() + (ys * ys * ys).sum()).backward()
        found.append([h, ys, *(t.grad for t in tensors)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=1e-10)
    np.testing.assert_array_equal(found[0][1].detach().numpy(), found[1][1].detach().numpy())


def test_gradients_of_gradients():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s) for s in ((3, 4), (4,), (2, 4), (3, 2, 3))]
    found = []
    for scan in (True, False):
        tensors = [av.tensor(a, requires_grad=True) for a in arrays]
        h, ys = recurrence(scan, *tensors)
        first = av.autograd.grad((h * h).sum() + (ys**2).sum(), tensors, create_graph=True)
        second = av.autograd.grad(sum((g * g * g).sum() for g in first), tensors)
        found.append([*first, *second])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=1e-8)


def test_a_loop_of_no_rounds():
    w = av.ones(3, 3, requires_grad=True)
    h = av.ones(2, 3, requires_grad=True)
    last, ys = av.scan(lambda h, x: ((h @ w) * x, h), h, av.zeros(0))
    assert ys.shape == (0, 2, 3)
    last.sum().backward()
    np.testing.assert_array_equal(h.grad.numpy(), np.ones((2, 3)))
    assert w.grad is None or not w.grad.numpy().any()


def test_structures_numbers_and_several_dtypes():
    state = {"sum": av.zeros(2), "count": 0, "seen": (av.tensor(True), av.zeros(2))}

    def body(state, x):
        following = {
            "sum": state["sum"] + x["a"],
            "count": state["count"] + 1,
            "seen": (state["seen"][0] & (x["b"] > 0), state["sum"]),
        }
        return following, {"n": state["count"]}

    xs = {"a": av.ones(3, 2), "b": av.tensor([1, 2, 3])}
    last, ys = av.scan(body, state, xs)
    assert last["count"].item() == 3
    assert last["seen"][0].item() is True
    assert last["sum"].tolist() == [3, 3]
    assert last["seen"][1].tolist() == [2, 2]
    assert ys["n"].tolist() == [0, 1, 2]


def test_one_tensor_may_be_carried_twice():
    h = av.ones(2)
    (a, b), none = av.scan(lambda c, x: ((c[0] + 1, c[1] * 3), None), (h, h), length=2)
    assert (a.tolist(), b.tolist(), none) == ([3, 3], [9, 9], None)


def test_views_and_pending_tensors_from_outside():
    base = av.arange(6.0).reshape(2, 3) * 2
    row = base[1]
    last, _ = av.scan(lambda c, x: (c + row + base[0], None), av.zeros(3), length=2)
    assert last.tolist() == [12, 20, 28]
    assert row.tolist() == [6, 8, 10]


def test_loops_in_loops_and_in_branches():
    w = av.tensor(2.0, requires_grad=True)

    def inner(c, x):
        return c * w + x, None

    def outer(c, x):
        c, _ = av.scan(inner, c, x)
        return av.cond(c > 20, lambda: c - w * 10, lambda: c), c

    x = av.ones(3, 2)
    last, seen = av.scan(outer, av.tensor(1.0), x)
    last.backward()
    t = torch.tensor(2.0, requires_grad=True)
    c, values = torch.tensor(1.0), []
    for _ in range(3):
        for _ in range(2):
            c = c * t + 1
        values.append(c.item())
        c = c - t * 10 if c > 20 else c
    c.backward()
    assert last.item() == c.item()
    assert seen.tolist() == values
    assert w.grad.item() == t.grad.item()


def test_detached_values_get_no_gradient():
    x = av.tensor(3.0, requires_grad=True)
    last, _ = av.scan(lambda c, _: (c.detach() * x, None), av.tensor(1.0), length=2)
    last.backward()
    assert x.grad.item() == 3


def test_draws_are_new_in_every_round_and_come_again_with_the_seed():
    def draw(_, x):
        return _, av.rand(4) + 0 * x

    found = []
    for _ in range(2):
        av.manual_seed(5)
        _, ys = av.scan(draw, av.zeros(1), av.zeros(3, 4))
        found.append(ys.numpy().copy())
    after = av.rand(4).numpy()
    np.testing.assert_array_equal(*found)
    assert len(np.unique(np.concatenate([found[0].ravel(), after]))) == 16


@pytest.mark.parametrize("x", [3.0, -3.0])
def test_cond_takes_one_branch_and_its_gradient(x, tier):
    w = av.tensor(5.0, requires_grad=True)
    v = av.tensor(7.0, requires_grad=True)
    x = av.tensor(x, requires_grad=True)
    y = av.cond(x > 0, lambda x: {"y": x * w}, lambda x: {"y": x * x * v}, x)["y"]
    y.backward()
    if x.item() > 0:
        assert (y.item(), x.grad.item(), w.grad.item(), v.grad.item()) == (15, 5, 3, 0)
    else:
        assert (y.item(), x.grad.item(), w.grad.item(), v.grad.item()) == (63, -42, 0, 9)


def test_while_loop_runs_as_long_as_its_condition_holds(tier):
    limit = av.tensor(100.0)
    n, x = av.while_loop(lambda c: c[1] < limit, lambda c: (c[0] + 1, c[1] * 3), (0, 1.0))
    assert (n.item(), x.item()) == (5, 243)
    n, x = av.while_loop(lambda c: c[1] < limit, lambda c: (c[0] + 1, c[1] * 3), (0, 200.0))
    assert (n.item(), x.item()) == (0, 200)


def test_while_loop_refuses_gradients():
    x = av.tensor(1.0, requires_grad=True)
    y = av.while_loop(lambda c: c < 10, lambda c: c * 2, x)
    with pytest.raises(AutogradError, match=r"\[while_loop\] has no gradient"):
        y.backward()


def test_a_compiled_step_with_loops():
    w = av.tensor(0.5, requires_grad=True)

    @av.compile
    def step(xs):
        last, _ = av.scan(lambda c, x: (c * w + x, None), av.tensor(1.0), xs)
        last = av.cond(last > 0, lambda: last * 2, lambda: last)
        last.backward()
        gradient = w.grad
        w.grad = None
        return last, gradient

    for _ in range(4):
        last, gradient = step(av.ones(3))
    assert last.item() == pytest.approx(2 * (0.125 + 0.25 + 0.5 + 1))
    assert gradient.item() == pytest.approx(2 * (3 * 0.25 + 2 * 0.5 + 1))


def refused(function, error, *parts):
    with pytest.raises(error) as found:
        function()
    for part in parts:
        assert part in str(found.value)


def test_errors_name_the_leaf_and_the_remedy():
    zeros = av.zeros(2)
    init = {"h": zeros}
    refused(
        lambda: av.scan(lambda c, x: ({"h": c["h"].sum()}, None), init, av.ones(3)),
        ShapeError,
        "init.h is float32 (2,)",
        "float32 ()",
    )
    refused(
        lambda: av.scan(lambda c, x: ({"h": c["h"].double()}, None), init, av.ones(3)),
        ShapeError,
        "init.h",
        "float64",
    )
    refused(
        lambda: av.scan(lambda c, x: ({"k": c["h"]}, None), init, av.ones(3)),
        ShapeError,
        "carry.k",
        "init.h",
    )
    refused(lambda: av.scan(lambda c, x: c, init, av.ones(3)), TypeError, "(carry, None)")
    refused(
        lambda: av.scan(lambda c, x: (c, None), init, (av.ones(3), av.ones(4))),
        ShapeError,
        "xs.1 has 4",
        "xs.0",
    )
    refused(lambda: av.scan(lambda c, x: (c, None), init), ShapeError, "length=")
    refused(lambda: av.scan(lambda c, x: (c, None), init, av.tensor(1.0)), ShapeError, "xs has no")
    refused(lambda: av.cond(zeros, abs, abs), ShapeError, "one bool")
    refused(lambda: av.cond(zeros > 0, abs, abs), ShapeError, "av.where")
    refused(
        lambda: av.cond(zeros.sum() > 0, lambda: zeros, lambda: zeros.sum()),
        ShapeError,
        "false_function",
    )
    refused(lambda: av.while_loop(lambda c: c, lambda c: c, zeros), ShapeError, "condition")
    refused(
        lambda: av.while_loop(lambda c: c.sum() > 0, lambda c: av.rand(2), zeros),
        TraceError,
        "random",
    )


def test_a_body_has_no_values_and_leaves_nothing_behind():
    total = av.zeros(2)

    def reads(c, x):
        return (c if c.sum() > 0 else c + x), None

    def writes(c, x):
        total.add_(c)
        return c, None

    refused(lambda: av.scan(reads, av.zeros(2), av.ones(3)), TraceError, "av.where", "test_loops")
    refused(lambda: av.scan(writes, av.zeros(2), av.ones(3)), TraceError, "Carry the tensor")
    assert total.tolist() == [0, 0]
    assert (av.ones(2) + 1).tolist() == [2, 2]


def test_writes_inside_the_body():
    def body(c, x):
        c = c.clone()
        c[0] = x
        c += 1
        return c, c[1]

    last, ys = av.scan(body, av.zeros(2), av.tensor([5.0, 7.0]))
    assert (last.tolist(), ys.tolist()) == ([8, 2], [1, 2])
