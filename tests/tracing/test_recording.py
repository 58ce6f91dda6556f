"""What recording costs: entries, histories and programs that come back, and loops cut by rounds."""

import numpy as np
import pytest

import avalon as av
from avalon import nn
from avalon.tracing import execute
from avalon.tracing.values import recorder


@pytest.fixture(autouse=True)
def nothing_pending():
    av.synchronize()
    yield
    av.synchronize()


def floats(*shape):
    return av.tensor(np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32))


def entries():
    return [operation.name for operation, *_ in recorder().recorded.entries() if operation.name]


def layers(depth):
    """A network of as many entries as it has layers."""
    row = [layer for _ in range(depth) for layer in (nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh())]

    def net(x):
        for layer in row:
            x = layer(x)
        return x

    return net


def test_a_loop_that_nobody_differentiates_runs_round_by_round():
    net, text = layers(8), floats(1, 8)
    before = execute._builds.copy()
    pending = []
    with av.no_grad():
        for _ in range(9):
            text = av.cat([text, net(text)[-1:]])
            pending.append(len(recorder().recorded.lines))
    assert max(pending) <= 2 * pending[0]
    rounds = text.numpy()
    built = execute._builds - before
    assert sum(built.values()) <= 4  # the first sizes, and one program for the others
    with av.no_grad():
        again = floats(1, 8)
        for _ in range(9):
            again = av.cat([again, net(again)[-1:]])
            again.numpy()
    assert np.array_equal(rounds, again.numpy())


def test_work_that_is_differentiated_waits_for_its_end():
    net, x = layers(8), floats(3, 8)
    for _ in range(3):
        x = net(x)
    assert len(entries()) == 3 * 24
    loss = x.sum()
    loss.item()
    with av.no_grad():
        loss.backward()
    assert len(entries()) > 3 * 24  # the way back is not cut either


def test_short_loops_are_not_cut():
    x = floats(4)
    with av.no_grad():
        for _ in range(100):
            x = x * 1.5
    assert len(entries()) == 200


def test_a_hot_program_takes_the_place_of_the_cold_one():
    execute.clear()
    for _ in range(3):
        (floats(5) * 3 - 1).numpy()
    structures = [s for s in execute._structures.values() if s.seen == 3]
    assert [[program.tier for program in s.programs] for s in structures] == [["hot"]]
    weights = [s.weight for s in execute._structures.values()]
    assert execute._weight[0] == sum(weights)


def test_movements_of_a_view_are_one_entry_and_one_history():
    x = floats(4, 6).requires_grad_()
    y = x * 1
    av.synchronize()
    piece = y[2, 1:4].reshape(3, 1).transpose(0, 1)
    piece.value()
    assert entries() == ["transpose"]
    assert len(y[2, 1].grad_fn.inputs) == 3  # the tensor, and two starts
    assert y[2, 1].grad_fn.inputs[0] is y.grad_fn
    assert np.array_equal(piece.detach().numpy(), x.detach().numpy()[2, 1:4].reshape(1, 3))


def test_gradients_through_several_movements():
    x = floats(3, 4, 5).requires_grad_()
    (x[1, :, 2:4].transpose(0, 1) ** 2).sum().backward()
    expected = np.zeros((3, 4, 5), np.float32)
    expected[1, :, 2:4] = 2 * x.detach().numpy()[1, :, 2:4]
    assert np.array_equal(x.grad.numpy(), expected)
    (first,) = av.autograd.grad((x[1, 0] ** 3).sum(), x, create_graph=True)
    (second,) = av.autograd.grad(first.sum(), x)
    expected = np.zeros((3, 4, 5), np.float32)
    expected[1, 0] = 6 * x.detach().numpy()[1, 0]
    np.testing.assert_allclose(second.numpy(), expected, rtol=1e-6)


def test_an_index_of_a_form_that_was_seen_is_checked_and_starts_where_it_says():
    x = floats(4, 5)
    for row, column in ((0, 1), (3, -1), (-4, 4)):
        assert x[row, column].item() == x.numpy()[row, column]
        assert np.array_equal(x[row:, None, column].numpy(), x.numpy()[row:, None, column])
    with pytest.raises(IndexError, match="index 4 is out of bounds for dimension 0 with size 4"):
        x[4, 0]
    with pytest.raises(IndexError, match="too many indices"):
        x[1, 1, 1]
    view = x[1]
    view += 1
    assert np.array_equal(x[1].numpy(), view.numpy())


def test_looks_depend_on_strides():
    x = floats(4, 6)
    for tensor, expected in ((x, x.numpy()), (x.T, x.numpy().T)):
        assert tensor[1:3].stride() == tuple(s // 4 for s in expected[1:3].strides)
        assert np.array_equal(tensor[1:3, 2].numpy(), expected[1:3, 2])
        parts = np.split(expected, len(expected) // 2)
        for piece, part in zip(tensor.split(2), parts, strict=True):
            assert np.array_equal(piece.numpy(), part)
    with pytest.raises(RuntimeError, match="not compatible"):
        x.T.view(24)
    assert np.array_equal(x.T.reshape(24).numpy(), x.numpy().T.reshape(24))


@pytest.mark.parametrize("width", [3, 200])  # below and above what waits to be added at the end
def test_the_uses_of_a_leaf_are_added_in_one_order(width):
    w = floats(width, width).requires_grad_()
    steps = [floats(2, width) for _ in range(5)]

    def gradient():
        w.grad = None
        sum((x @ w).tanh().sum() for x in steps).backward()
        return w.grad.numpy().copy()

    results = [gradient() for _ in range(3)]
    with av.eager():
        results.append(gradient())
    compiled = av.compile(lambda w: av.autograd.grad(sum((x @ w).tanh().sum() for x in steps), w))
    results.append(compiled(w)[0].numpy())
    for other in results[1:]:
        assert np.array_equal(results[0], other)


def test_a_draw_is_two_entries():
    av.multinomial(floats(2, 5).abs(), 2)
    av.synchronize()
    noise = av.rand(3), av.randn(3)
    assert entries() == ["random_bits", "_uniform", "random_bits", "_normal"]
    assert len(noise) == 2
