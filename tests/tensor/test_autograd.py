"""backward, hooks, retained graphs, gradients of gradients: PyTorch's values and PyTorch's
errors.
"""

import gc

import pytest
import torch

import avalon as av


def leaf(values=(1.0, 2.0, 3.0)):
    return torch.tensor(values, requires_grad=True), av.tensor(values, requires_grad=True)


def test_gradients_accumulate_into_the_same_tensor():
    _, x = leaf()
    (x * x).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad is first
    assert first.tolist() == [4.0, 8.0, 12.0]


def test_second_backward_needs_retain_graph():
    _, x = leaf()
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()
    assert x.grad.tolist() == [4.0, 8.0, 12.0]


def test_a_backward_that_fails_adds_nothing():
    _, x = leaf()
    y = x * x
    y.sum().backward()
    x.grad = None
    _, late = leaf()
    with pytest.raises(RuntimeError, match="second time"):
        (y * late).sum().backward()
    assert x.grad is None
    assert late.grad is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: (x * 2).backward(), "only for scalar outputs"),
        (lambda x: (x * 2).backward(av.ones(2)), "Mismatch in shape"),
        (lambda x: x.detach().sum().backward(), "does not require grad"),
        (lambda x: x.add_(1), "a leaf Variable that requires grad"),
        (lambda x: x[0].mul_(2), "view of a leaf"),
        (lambda x: x.detach().register_hook(print), "doesn't require gradient"),
        (lambda x: (x * 1).requires_grad_(False), "leaf variables"),
        (lambda x: av.tensor([1]).requires_grad_(), "floating point"),
        (lambda x: (x * 1)[0].detach_(), "Can't detach views"),
        (lambda x: setattr(x, "grad", av.ones(2)), "shape"),
        (lambda x: x.numpy(), "requires grad"),
        (lambda x: av.autograd.grad(x.sum(), av.ones(1, requires_grad=True)), "allow_unused"),
        (lambda x: av.autograd.grad(x.sum(), av.ones(1)), "does not require grad"),
    ],
)
def test_errors(wrong, message):
    with pytest.raises(RuntimeError, match=message):
        wrong(leaf()[1])


def test_backward_reads_what_forward_read():
    _, x = leaf()
    w = av.tensor([2.0, 2.0, 2.0])
    y = x * w
    w.fill_(100)
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
    z = (x * 3) ** 2
    x.data.mul_(0)
    z.sum().backward()
    assert x.grad.tolist() == [20.0, 38.0, 56.0]


def test_hooks():
    _, x = leaf()
    seen = []
    y = x * 2
    y.register_hook(lambda g: seen.append(g.tolist()))
    handle = x.register_hook(lambda g: g * 10)
    y.retain_grad()
    (y * y).sum().backward()
    assert seen == [[4.0, 8.0, 12.0]]
    assert y.grad.tolist() == [4.0, 8.0, 12.0]
    assert x.grad.tolist() == [80.0, 160.0, 240.0]
    handle.remove()
    x.grad = None
    x.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_gradients_of_gradients():
    t, x = leaf()
    (first,) = av.autograd.grad((x**3).sum(), x, create_graph=True)
    (second,) = av.autograd.grad((first * first).sum(), x)
    (tfirst,) = torch.autograd.grad((t**3).sum(), t, create_graph=True)
    (tsecond,) = torch.autograd.grad((tfirst * tfirst).sum(), t)
    assert second.tolist() == tsecond.tolist()


def test_backward_with_create_graph_and_inputs():
    _, x = leaf()
    y = av.tensor([1.0, 1.0, 1.0], requires_grad=True)
    (x * x * y).sum().backward(create_graph=True, inputs=[x])
    assert y.grad is None
    x.grad.sum().backward(inputs=[y])
    assert y.grad.tolist() == [2.0, 4.0, 6.0]


def test_no_grad_forms():
    _, x = leaf()
    with av.no_grad():
        assert not (x * 2).requires_grad
        with av.enable_grad():
            assert (x * 2).requires_grad

    @av.no_grad()
    def quiet():
        return x * 2

    assert not quiet().requires_grad
    av.set_grad_enabled(False)
    assert not av.is_grad_enabled()
    av.set_grad_enabled(True)
    with av.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    with av.inference_mode():
        assert not (x * 2).requires_grad


def test_values_kept_for_backward_go_with_it():
    _, x = leaf()
    y = x.exp()
    history = y.grad_fn
    y.sum().backward()
    assert history._kept is None


def test_a_dropped_graph_is_gone():
    _, x = leaf()
    y = x
    for _ in range(20_000):
        y = y + 1
    del y
    gc.collect()
    y = x
    for _ in range(3_000):
        y = y * 1
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_writes_under_no_grad_leave_the_leaf():
    _, x = leaf()
    with av.no_grad():
        x -= 1
        x[0] = 5
    assert x.is_leaf
    assert x.requires_grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [10.0, 2.0, 4.0]
    alias = x.detach()
    alias.zero_()
    assert x.tolist() == [0.0, 0.0, 0.0]


def test_in_place_after_use_in_a_graph():
    t, x = leaf()
    for one in (t, x):
        y = one * 2
        z = y * y
        y.add_(1) if one is x else None
        z.sum().backward()
    assert x.grad.tolist() == t.grad.tolist()


def test_data_can_be_replaced():
    _, x = leaf()
    x.data = av.tensor([7.0])
    (x * x).sum().backward()
    assert x.grad.tolist() == [14.0]


def test_functions_with_a_gradient_of_their_own():
    class Scaled(av.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.save_for_backward(x)
            ctx.factor = factor
            return x * x * factor

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient * 2 * x * ctx.factor, None

    _, x = leaf()
    y = Scaled.apply(x, 5.0)
    (first,) = av.autograd.grad(y.sum(), x, create_graph=True)
    assert first.tolist() == [10.0, 20.0, 30.0]
    first.sum().backward()
    assert x.grad.tolist() == [10.0, 10.0, 10.0]
    with av.no_grad():
        assert not Scaled.apply(x, 1.0).requires_grad

    class Wrong(Scaled):
        @staticmethod
        def backward(ctx, gradient):
            return gradient

    with pytest.raises(RuntimeError, match="returned 1 gradients for the 2 arguments"):
        Wrong.apply(x, 1.0).sum().backward()
