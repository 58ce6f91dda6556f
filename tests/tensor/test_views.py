"""Views: strides, aliasing and errors as in PyTorch."""

import pytest
import torch

import avalon as av

VIEWS = [
    lambda x: x.view(4, 3), lambda x: x.view(-1), lambda x: x.reshape(2, 6), lambda x: x.t(),
    lambda x: x.T, lambda x: x.transpose(0, 1), lambda x: x.permute(1, 0), lambda x: x.unsqueeze(1),
    lambda x: x.unsqueeze(-1), lambda x: x.unsqueeze(0).squeeze(0), lambda x: x[1:].squeeze(),
    lambda x: x.flatten(), lambda x: x.unflatten(1, (2, 2)), lambda x: x.narrow(1, 1, 2),
    lambda x: x.select(1, -1), lambda x: x.diagonal(), lambda x: x.diagonal(1), lambda x: x.mT,
    lambda x: x.unfold(1, 2, 2), lambda x: x.expand(2, 3, 4)[1], lambda x: x.movedim(0, 1),
    lambda x: x.swapaxes(0, 1), lambda x: x.view_as(x), lambda x: x[1].expand_as(x)[0],
    lambda x: x.t()[1:].t(), lambda x: x.unsqueeze(0).expand(3, -1, -1)[1, :, 2],
    lambda x: x.t().unflatten(0, (2, 2)), lambda x: x[::2, ::3], lambda x: x[:, None, 1:3],
]  # fmt: skip


def pair(requires=False):
    data = [[float(4 * row + column) for column in range(4)] for row in range(3)]
    return torch.tensor(data, requires_grad=requires), av.tensor(data, requires_grad=requires)


@pytest.mark.parametrize("number", range(len(VIEWS)))
def test_views(number):
    look = VIEWS[number]
    t, a = pair()
    expected, found = look(t), look(a)
    assert found.tolist() == expected.tolist()
    assert found.shape == tuple(expected.shape)
    assert found.stride() == tuple(expected.stride())
    assert found.storage_offset() == expected.storage_offset()
    assert found.is_contiguous() == expected.is_contiguous()
    expected.mul_(-1)
    found.mul_(-1)
    assert a.tolist() == t.tolist(), "a write to the view shows in the base"
    t.add_(100)
    a.add_(100)
    assert found.tolist() == expected.tolist(), "a write to the base shows in the view"


@pytest.mark.parametrize("number", range(len(VIEWS)))
def test_gradients_of_views_and_of_writes_to_them(number):
    look = VIEWS[number]
    (t, a), (tw, aw) = pair(True), pair(True)
    t2, a2 = t * 2, a * 2
    look(t2).mul_(look(tw))
    look(a2).mul_(look(aw))
    (t2 * t2).sum().backward()
    (a2 * a2).sum().backward()
    assert a.grad.tolist() == t.grad.tolist()
    assert aw.grad.tolist() == tw.grad.tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x.view(5, 2), "invalid for input of size 12"),
        (lambda x: x.t().view(-1), "not compatible with input tensor's size"),
        (lambda x: x.view(-1, -1), "only one dimension can be inferred"),
        (lambda x: x.expand(2, 4), "must match the existing size"),
        (lambda x: x.permute(0, 0), "duplicate"),
        (lambda x: x.unsqueeze(0).t(), "<= 2 dimensions"),
        (lambda x: x.split([1, 1]), "must sum to"),
        (lambda x: x.narrow(0, 2, 2), "exceeds dimension size"),
        (lambda x: x.diagonal(0, 1, 1), "cannot be identical"),
        (lambda x: x.expand(3, 3, 4).add_(1), "single memory location"),
        (lambda x: x[1:].copy_(x[:-1]), "overlap|single memory location"),
    ],
)
def test_errors(wrong, message):
    t, a = pair()
    with pytest.raises((RuntimeError, IndexError)):
        wrong(t)
    with pytest.raises(RuntimeError, match=message):
        wrong(a)


def test_axes_out_of_range():
    for wrong in (lambda x: x.transpose(0, 2), lambda x: x.unsqueeze(4), lambda x: x.select(0, 3)):
        with pytest.raises(IndexError):
            wrong(pair()[1])


def test_reshape_copies_where_strides_forbid():
    _, a = pair()
    copy = a.t().reshape(-1)
    copy.zero_()
    assert a.sum().item() == 66
    view = a.reshape(-1)
    view.zero_()
    assert a.sum().item() == 0


def test_pieces_must_not_be_written_in_grad_mode():
    _, a = pair()
    first, *_ = a.split(1)
    with pytest.raises(RuntimeError, match="multiple views"):
        first.mul_(av.tensor(2.0, requires_grad=True))
    first.mul_(2)  # no gradient is involved
    assert a[0].tolist() == [0.0, 2.0, 4.0, 6.0]


def test_slices_of_other_starts_are_the_same_program():
    from avalon.tracing import execute

    x = av.tensor([float(i) for i in range(100)])
    (x[3:13] * 2).tolist()
    before = len(execute._structures)
    for start in range(20, 30):
        assert (x[start : start + 10] * 2).tolist() == [2.0 * (start + i) for i in range(10)]
    assert len(execute._structures) == before


def test_elementwise_results_lie_as_their_operands():
    t, a = pair()
    assert (a.t() + 1).stride() == (t.t() + 1).stride()
    assert (a.t() * a.t()).is_contiguous() is False
    assert a.t().clone().stride() == t.t().clone().stride()
    assert a.t().contiguous().stride() == (3, 1)
    assert a.t().double().stride() == t.t().double().stride()
