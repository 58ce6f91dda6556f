"""Steps write in place what they rebind, and a step that fails has written nothing."""

import numpy as np
import pytest

import avalon as av


def test_recorded_calls_write_their_state_in_place():
    state = av.buffer(av.zeros(1000))
    table = av.tensor(np.arange(3.0, dtype=np.float32))

    @av.compile
    def step(index):
        state.copy_(state + table.index_select(0, index))
        return state.sum()

    addresses = set()
    for number in range(4):
        step(av.tensor([2]))
        addresses.add(state._cell.value.buffer.address)
        assert state[0].item() == 2.0 * (number + 1)
    assert len(addresses) == 1


def test_a_recorded_call_that_fails_leaves_its_state():
    state = av.buffer(av.ones(1000))
    table = av.tensor(np.arange(3.0, dtype=np.float32))

    @av.compile
    def step(index):
        state.copy_(state + table.index_select(0, index + 1))
        return state.sum()

    with pytest.raises(IndexError):
        step(av.tensor([2]))
    assert state.sum().item() == 1000
    step(av.tensor([1]))
    assert state.sum().item() == 3000


def gradients_of(calls, hold=None, table_size=3):
    """A step that replaces a table's gradient; the gradients' addresses after each call."""
    table = av.nn.Embedding(table_size, 200)
    optimizer = av.optim.SGD(table.parameters(), lr=0.5, momentum=0.9)

    @av.compile
    def step(index):
        optimizer.zero_grad()
        loss = (table(index) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    addresses = []
    for _ in range(calls):
        step(av.tensor([0, 2]))
        addresses.append(table.weight.grad.value().buffer.address)
        if hold is not None:
            hold(table.weight)
    return step, table, addresses


def test_a_new_gradient_lies_where_the_old_one_lay():
    step, _, addresses = gradients_of(8)
    assert step.recorded == 3
    assert len(set(addresses[1:])) == 1  # at first, the momentum shares it


@pytest.mark.parametrize("kept", [lambda p: p.grad, lambda p: p.grad[0], lambda p: p.grad.clone()])
def test_a_gradient_that_somebody_holds_keeps_its_value(kept):
    held, seen = [], []

    def hold(parameter):
        held.append(kept(parameter))
        seen.append(held[-1].tolist())

    gradients_of(6, hold)
    assert [one.tolist() for one in held] == seen
    assert len({str(one) for one in seen}) == 6


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_a_call_that_fails_puts_the_old_gradients_back(calls):
    step, table, _ = gradients_of(calls)
    weight, gradient = table.weight.tolist(), table.weight.grad.tolist()
    for _ in range(2):
        with pytest.raises(IndexError):
            step(av.tensor([0, 3]))
        assert table.weight.tolist() == weight
        assert table.weight.grad.tolist() == gradient
    step(av.tensor([0, 2]))
    assert table.weight.grad.tolist() != gradient


def test_a_gradient_of_two_parameters_is_put_back_as_one():
    first, second = (av.ones(4, requires_grad=True) for _ in range(2))
    table = av.tensor(np.arange(3.0, dtype=np.float32))

    @av.compile
    def step(index):
        first.grad = second.grad = None
        ((first * 2 + second) * table.index_select(0, index + 0)).sum().backward()

    step(av.tensor([1]))
    first.grad = second.grad = av.full((4,), 7.0)
    with pytest.raises(IndexError):
        step(av.tensor([3]))
    assert first.grad is second.grad
    assert first.grad.tolist() == [7.0] * 4
    step(av.tensor([2]))
    assert first.grad.tolist() == [4.0] * 4
    assert second.grad.tolist() == [2.0] * 4


@pytest.mark.parametrize("number", [1.5, [1.5, 2.5]])
def test_a_clone_that_changes_later_is_read_apart(number):
    first = av.tensor(number)
    second = first.clone()

    @av.compile
    def step():
        return first * 2 + second

    for _ in range(4):
        assert step().sum().item() == 3 * first.sum().item()
    second.add_(1)
    assert (step() == first * 3 + 1).all()
    first.add_(1)
    assert (step() == first * 3).all()


def test_gradients_that_are_equal_are_rewritten_where_they_lie():
    weight, bias = (av.ones(5, requires_grad=True) for _ in range(2))
    optimizer = av.optim.SGD([weight, bias], lr=0.5)

    @av.compile
    def step(x):
        optimizer.zero_grad()
        ((weight * x).sum() + (bias * x).sum()).backward()
        optimizer.step()

    for number in range(1, 8):
        step(av.full((5,), float(number)))
        assert weight.grad.tolist() == bias.grad.tolist() == [float(number)] * 5
        assert weight.grad.value().buffer.address != bias.grad.value().buffer.address
        if number == 5:
            weight.grad.mul_(3)
            assert bias.grad.tolist() == [5.0] * 5
    assert step._replays[0].quick is not None


def test_new_state_is_updated_where_it_starts():
    table = av.nn.Embedding(3, 200)
    optimizer = av.optim.SGD(table.parameters(), lr=0.5, momentum=0.9)

    @av.compile
    def step(index):
        optimizer.zero_grad()
        (table(index) ** 2).sum().backward()
        optimizer.step()

    addresses = set()
    for _ in range(5):
        step(av.tensor([0, 2]))
        (state,) = optimizer.state.values()
        addresses.add(state["momentum_buffer"].value().buffer.address)
    assert len(addresses) == 1
