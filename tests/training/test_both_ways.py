"""Small trainings follow PyTorch for a hundred steps: in the loop, and by `grad` and `update`."""

import numpy as np
import pytest
import torch

import avalon as av
import avalon.nn.functional as F
from avalon import nn

STEPS = 100


def cnn(nn):
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
        nn.LogSoftmax(dim=1),
    )


def pair_of_models(make):
    torch.manual_seed(0)
    theirs = make(torch.nn)
    ours = make(nn)
    ours.load_state_dict({name: av.tensor(t.numpy()) for name, t in theirs.state_dict().items()})
    return ours, theirs


def batches(count, rows=16, classes=10):
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(classes, 1, 22, 22))
    for _ in range(count):
        labels = rng.integers(0, classes, rows)
        images = centres[labels] + rng.normal(size=(rows, 1, 22, 22))
        yield images.astype(np.float32), labels


def losses_of_torch(model, optimizer):
    found = []
    for images, labels in batches(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(model(torch.tensor(images)), torch.tensor(labels))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def losses_of_loop(model, optimizer):
    found = []
    for images, labels in batches(STEPS):
        optimizer.zero_grad()
        loss = F.nll_loss(model(av.tensor(images)), av.tensor(labels))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def losses_of_update(model, optimizer):
    def loss_of(model, images, labels):
        return F.nll_loss(model(images), labels)

    found = []
    for images, labels in batches(STEPS):
        loss, gradients = av.grad(loss_of, model, av.tensor(images), av.tensor(labels))
        av.update(optimizer, model, gradients[0])
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("name", "settings"), [("SGD", {"lr": 0.02, "momentum": 0.9}), ("Adam", {"lr": 2e-3})]
)
def test_a_cnn_follows_pytorch_both_ways(name, settings):
    ours, theirs = pair_of_models(cnn)
    functional, _ = pair_of_models(cnn)
    expected = losses_of_torch(theirs, getattr(torch.optim, name)(theirs.parameters(), **settings))
    found = losses_of_loop(ours, getattr(av.optim, name)(ours.parameters(), **settings))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert expected[-1] < 0.7 * expected[0]
    assert losses_of_update(functional, getattr(av.optim, name)(**settings)) == found
    for one, other in zip(ours.parameters(), functional.parameters(), strict=True):
        assert np.array_equal(one.detach().numpy(), other.detach().numpy())


class Coder:
    """The parts of a variational autoencoder, in either library."""

    def __init__(self, library):
        self.library = library
        self.layers = library.nn.ModuleDict(
            {
                "hidden": library.nn.Linear(64, 32),
                "mean": library.nn.Linear(32, 3),
                "spread": library.nn.Linear(32, 3),
                "back": library.nn.Linear(3, 32),
                "out": library.nn.Linear(32, 64),
            }
        )

    def loss(self, x):
        T, F = self.library, self.library.nn.functional
        hidden = T.relu(self.layers["hidden"](x))
        mean, spread = self.layers["mean"](hidden), self.layers["spread"](hidden)
        code = mean + T.exp(0.5 * spread) * T.randn_like(spread)
        seen = T.sigmoid(self.layers["out"](T.relu(self.layers["back"](code))))
        distance = F.binary_cross_entropy(seen, x, reduction="sum")
        return distance - 0.5 * T.sum(1 + spread - mean.pow(2) - spread.exp())


def test_a_vae_follows_pytorch_with_its_noise(monkeypatch):
    torch.manual_seed(1)
    theirs, ours = Coder(torch), Coder(av)
    state = theirs.layers.state_dict()
    ours.layers.load_state_dict({name: av.tensor(t.numpy()) for name, t in state.items()})
    rng = np.random.default_rng(0)
    data = rng.random((STEPS, 16, 64)).astype(np.float32)
    first = torch.optim.Adam(theirs.layers.parameters(), lr=1e-3)
    second = av.optim.Adam(ours.layers.parameters(), lr=1e-3)
    expected, found = [], []
    drawn = list(rng.normal(size=(STEPS, 16, 3)).astype(np.float32))
    noise = iter(drawn)
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.tensor(next(noise)))
    for step in range(STEPS):
        first.zero_grad()
        loss = theirs.loss(torch.tensor(data[step]))
        loss.backward()
        first.step()
        expected.append(loss.item())
    with av.random.inject(iter(drawn)):
        for step in range(STEPS):
            second.zero_grad()
            loss = ours.loss(av.tensor(data[step]))
            loss.backward()
            second.step()
            found.append(loss.item())
    np.testing.assert_allclose(found, expected, rtol=1e-4)
