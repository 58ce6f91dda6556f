"""The first NaN is named: by `debug_nans`, and by `fit`, forward and backward."""

import re
from pathlib import Path

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn
from avalon.errors import NonFiniteError
from avalon.tracing.modes import modes


class Log(nn.Module):
    """Makes a NaN of what is negative."""

    def forward(self, x):
        return av.log(x - 9)


class Root(nn.Module):
    """Sound forward at 0, an infinite slope there, and a NaN once that is multiplied by 0."""

    def forward(self, x):
        x = x - x.mean()
        return av.where(x > 0, av.sqrt(x * (x > 0)), x * 0)


class Net:
    """A plain struct."""

    def __init__(self, third):
        av.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 2, 3)
        self.third = third
        self.out = nn.Linear(2 * 16, 3)

    def __call__(self, x):
        x = F.relu(self.conv1(x))
        x = self.third(self.conv2(x))
        return self.out(x.reshape(-1, 2 * 16))


def images():
    av.manual_seed(1)
    return av.rand(6, 1, 8, 8), av.tensor([0, 1, 2, 0, 1, 2])


def line_of(method, containing):
    code = method.__code__
    text = Path(code.co_filename).read_text().splitlines()
    start = code.co_firstlineno
    return next(n for n in range(start, start + 20) if containing in text[n - 1])


def test_the_third_layer_is_named():
    x, _ = images()
    net = Net(Log())
    with pytest.raises(NonFiniteError) as found, av.debug_nans():
        net(x).sum().item()
    message = str(found.value)
    assert "[log] at " in message
    assert "in net.third, made the first nan" in message
    assert f"test_nans.py:{line_of(Log.forward, 'av.log')}" in message
    assert re.search(r"of numbers in \[-[\d.]+, -[\d.]+\]", message)


def test_fit_names_the_third_layer_too():
    x, y = images()
    net = Net(Log())
    before = [p.detach().numpy().copy() for p in av.parameters(net)]
    with pytest.raises(NonFiniteError) as found:
        av.fit(net, (x, y), nn.CrossEntropyLoss(), av.optim.SGD(lr=0.1), progress=False)
    assert "in net.third, made the first nan" in str(found.value)
    for parameter, value in zip(av.parameters(net), before, strict=True):
        np.testing.assert_array_equal(parameter.detach().numpy(), value)


def test_a_nan_of_the_backward_pass():
    x, y = images()
    net = Net(Root())
    with pytest.raises(NonFiniteError) as found, av.debug_nans():
        F.cross_entropy(net(x), y).backward()
        net.conv1.weight.grad.sum().item()
    message = str(found.value)
    assert "gradient of sqrt" in message or "gradient of multiply" in message
    assert "in net.third" in message
    assert f"test_nans.py:{line_of(Root.forward, 'av.where')}" in message


def test_fit_goes_back_to_the_batch_whose_gradient_was_none():
    x, y = images()
    rows = av.cat([x, x, x])
    labels = av.cat([y, y, y])

    net = Net(Root())
    twin = Net(Root())
    with pytest.raises(NonFiniteError) as found:
        av.fit(
            net, (rows, labels), nn.CrossEntropyLoss(), av.optim.SGD(lr=0.1), batch_size=6,
            shuffle=False, progress=False,
        )  # fmt: skip
    message = str(found.value)
    assert "the loss became nan in epoch 1, batch 2" in message
    assert "spoiled by the batch before" in message
    assert "gradient of" in message
    assert "in net.third" in message
    for parameter, value in zip(av.parameters(net), av.parameters(twin), strict=True):
        np.testing.assert_array_equal(parameter.detach().numpy(), value.detach().numpy())


def test_a_sound_step_is_left_alone():
    def losses(debug):
        av.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 1))
        optimizer = av.optim.Adam(net.parameters(), lr=0.1)
        found = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(av.ones(5, 4)).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    with av.debug_nans(infinities=True):
        watched = losses(True)
    assert watched == losses(False)


def test_infinities_are_asked_for():
    with av.debug_nans():
        assert av.log(av.zeros(2)).sum().item() == -np.inf
    first = pytest.raises(NonFiniteError, match="made the first infinity")
    with first, av.debug_nans(infinities=True):
        av.log(av.zeros(2)).sum().item()


def test_a_masked_nan_is_none():
    with av.debug_nans():
        x = av.tensor([4.0, -1.0])
        masked = av.where(x > 0, av.sqrt(x), 0.0)
        assert masked.tolist() == [2.0, 0.0]


def test_data_that_holds_a_nan_is_named():
    batch = av.tensor([1.0, float("nan")])
    named = pytest.raises(NonFiniteError, match=r"batch, an input of shape \(2,\), holds nan")
    with named, av.debug_nans():
        (batch * 2).sum().item()


def test_compiled_steps_are_watched_and_replay_afterwards():
    net = nn.Sequential(nn.Linear(2, 2), Log())
    step = av.compile(av.no_grad(lambda x: net(x).sum()))
    for _ in range(4):
        step(av.ones(3, 2) * 0)
    replayed = step.replayed
    with pytest.raises(NonFiniteError, match=r"in net\.1"), av.debug_nans():
        step(av.ones(3, 2)).item()
    step(av.ones(3, 2))
    assert step.replayed > replayed


def test_a_failed_step_leaves_weights_and_says_so_again():
    weight = av.tensor([1.0], requires_grad=True)
    optimizer = av.optim.SGD([weight], lr=0.1)
    with av.debug_nans():
        loss = (weight * float("nan")).sum()
        loss.backward()
        with pytest.raises(NonFiniteError):
            optimizer.step()
        with pytest.raises(NonFiniteError):
            loss.item()
        assert weight.tolist() == [1.0]


def test_the_end_of_the_block_runs_what_is_left_and_takes_the_mode_back():
    x = av.tensor([-1.0])
    with pytest.raises(NonFiniteError), av.debug_nans():
        y = av.log(x)
    assert modes.watch is None
    assert not modes.layers
    assert np.isnan(av.log(x).item())
    del y
