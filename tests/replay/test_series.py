"""Several calls of a compiled step in one native call: the state and the bits of single calls."""

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn
from avalon.errors import IndexOutOfRange

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(40, 4)).astype(np.float32)


class Trained:
    """A network with dropout and batch statistics, its optimizer, and its compiled step."""

    def __init__(self, labels=None):
        av.manual_seed(3)
        self.net = nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2)
        )
        self.turning = av.eye(3)
        self.optimizer = av.optim.Adam(self.net.parameters(), lr=0.01)
        self.x = av.tensor(X)
        self.y = av.tensor((X[:, 0] > 0).astype(np.int64) if labels is None else labels)
        self.step = av.compile(self._step)

    def _step(self, rows):
        self.optimizer.zero_grad()
        output = self.net(self.x[rows])
        loss = F.cross_entropy(output, self.y[rows])
        loss.backward()
        self.optimizer.step()
        with av.no_grad():  # a state that cannot be updated where it lies
            self.turning.copy_(self.turning @ (self.turning + 0.01))
        return loss.detach(), self.turning.sum()

    def bits(self):
        tensors = {**self.net.state_dict(), "turning": self.turning}
        for number, parameter in enumerate(self.net.parameters()):
            for name, tensor in self.optimizer.state[parameter].items():
                tensors[f"{name} {number}"] = tensor
        found = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        return found, av.get_rng_state().tolist()


def batches(count, size=8):
    return GENERATOR.permuted(np.resize(np.arange(len(X)), (count, size)), axis=1)


def several(trained, order):
    """The steps on rows of `order` in one call; what `run_series` returns."""
    memory = av.tensor(order)
    start = memory.value().force().address
    addresses = start + np.arange(len(order), dtype=np.uint64) * np.uint64(order[0].nbytes)
    return trained.step.run_series((av.tensor(order[0]),), {0: addresses}, len(order))


def one_by_one(trained, order):
    return [[measure.item() for measure in trained.step(av.tensor(rows))] for rows in order]


@pytest.mark.parametrize("count", [2, 5, 300])
def test_series_leave_the_state_of_single_calls(count):
    order = batches(count + 8)
    expected = Trained()
    values = one_by_one(expected, order)
    state = expected.bits()

    trained = Trained()
    found = one_by_one(trained, order[:5])
    results = several(trained, order[5 : 5 + count])
    found += [list(pair) for pair in zip(*[r.tolist() for r in results], strict=True)]
    found += one_by_one(trained, order[5 + count :])
    assert found == values
    assert trained.bits() == state
    assert trained.step.replayed == len(order) - trained.step.recorded


def test_after_a_failed_check_the_calls_before_are_made():
    labels = (X[:, 0] > 0).astype(np.int64)
    order = np.arange(40).reshape(10, 4)
    order[8, 1] = 13
    wrong = labels.copy()
    wrong[13] = 5  # in the fourth batch, and in the ninth
    order[3, 1] = 0
    expected = Trained(wrong)
    one_by_one(expected, order[:8])
    state, following = expected.bits(), one_by_one(expected, order[:2])
    trained = Trained(wrong)
    one_by_one(trained, order[:5])
    with pytest.raises(IndexOutOfRange, match="5"):
        several(trained, order[5:])
    assert trained.bits() == state
    assert one_by_one(trained, order[:2]) == following


def test_the_first_argument_may_come_again():
    order = batches(12)
    expected = one_by_one(Trained(), [*order[:10], order[5]])
    trained = Trained()
    one_by_one(trained, order[:5])
    first, memory = av.tensor(order[5]), av.tensor(order[5:10])
    start = memory.value().force().address
    addresses = start + np.arange(5, dtype=np.uint64) * np.uint64(64)
    trained.step.run_series((first,), {0: addresses}, 5)
    last = [measure.item() for measure in trained.step(first)]
    assert last == expected[-1]


def test_results_that_are_no_new_numbers_are_refused():
    weight = av.ones(3)

    def rows(x):
        return x * weight

    def state(x):
        weight.add_(x)
        return weight

    for function in (rows, state):
        step = av.compile(function)
        for _ in range(4):
            step(av.ones(3))
        before = weight.tolist()
        addresses = np.zeros(2, np.uint64)
        assert step.run_series((av.ones(3),), {0: addresses}, 2) is None
        assert weight.tolist() == before


def test_steps_that_are_not_replayed_yet_are_refused():
    trained = Trained()
    assert trained.step.calls_within(1.0) == 0
    assert several(trained, batches(3)) is None
    one_by_one(trained, batches(6))
    assert trained.step.calls_within(1.0) > 1
    trained.optimizer.param_groups[0]["lr"] = 0.5
    assert several(trained, batches(3)) is None
