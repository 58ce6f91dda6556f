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
