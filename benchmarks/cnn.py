"""The convolutional network of the benchmark, written once for each library.

Three 3x3 convolutions with padding 1 (16, 32, 32 channels) and ReLU, max pooling by 2 after the
first two, a linear layer from 32*7*7 to 10 classes, log-softmax and negative log-likelihood; a
batch of 100 images of 1x28x28; Adam with its default settings. All start from the same weights.

Comes in: the weights and the batch, as NumPy arrays. Goes out: a `Contest` (see contest.py).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import avalon as av
from benchmarks.contest import (
    Arrays,
    Competitor,
    Contest,
    avalon_competitor,
    competitors,
    jax_competitor,
    jax_predictor,
    jax_step,
    torch_competitor,
)
from benchmarks.nets import Net, training_step

BATCH = 100


def contest() -> Contest:
    """The competitors, each with a training step that returns the loss and a prediction."""
    generator = np.random.default_rng(0)
    weights = _weights(generator)
    images = generator.random((BATCH, 1, 28, 28), np.float32)
    labels = generator.integers(0, 10, BATCH)
    return Contest(
        "CNN, batch 100",
        competitors(
            lambda compiled: _avalon(weights, images, labels, compiled),
            lambda compiled: _torch(weights, images, labels, compiled),
            _jax(weights, images, labels),
        ),
    )


def _avalon(weights: Arrays, images: Any, labels: Any, compiled: bool) -> Competitor:
    net = Net()
    av.load_state_dict(net, {name: av.tensor(value) for name, value in weights.items()})
    step = training_step(net, av.optim.Adam(av.parameters(net), lr=1e-3))
    return avalon_competitor(step, net, (images, labels), images, compiled)


def _torch(weights: Arrays, images: Any, labels: Any, compiled: bool) -> Competitor:
    layers = torch.nn
    functional = torch.nn.functional

    class TorchNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = layers.Conv2d(1, 16, 3, padding=1)
            self.conv2 = layers.Conv2d(16, 32, 3, padding=1)
            self.conv3 = layers.Conv2d(32, 32, 3, padding=1)
            self.fc = layers.Linear(32 * 7 * 7, 10)

        def forward(self, x: Any) -> Any:
            x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
            x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
            x = functional.relu(self.conv3(x))
            return functional.log_softmax(self.fc(x.reshape(-1, 32 * 7 * 7)), dim=1)

    net = TorchNet()
    net.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    if compiled:
        net = torch.compile(net)

    def loss_of(x: Any, y: Any) -> Any:
        return functional.nll_loss(net(x), y)

    return torch_competitor(optimizer, loss_of, net, (images, labels), images)


def _jax(weights: Arrays, images: Any, labels: Any) -> Competitor:
    def convolve(x: Any, weight: Any, bias: Any) -> Any:
        y = jax.lax.conv_general_dilated(
            x, weight, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        return jax.nn.relu(y + bias[:, None, None])

    def pool(x: Any) -> Any:
        window = (1, 1, 2, 2)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")

    def forward(p: Arrays, x: Any) -> Any:
        x = pool(convolve(x, p["conv1.weight"], p["conv1.bias"]))
        x = pool(convolve(x, p["conv2.weight"], p["conv2.bias"]))
        x = convolve(x, p["conv3.weight"], p["conv3.bias"]).reshape(len(x), -1)
        return jax.nn.log_softmax(x @ p["fc.weight"].T + p["fc.bias"])

    def loss_of(p: Arrays, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(forward(p, x), y[:, None], 1).mean()

    predict = jax_predictor(forward, images)
    return jax_competitor(jax_step(loss_of), predict, weights, (images, labels))


def _weights(generator: np.random.Generator) -> Arrays:
    shapes = {
        "conv1": (16, 1, 3, 3),
        "conv2": (32, 16, 3, 3),
        "conv3": (32, 32, 3, 3),
        "fc": (10, 32 * 7 * 7),
    }
    weights = {}
    for name, shape in shapes.items():
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        weights[f"{name}.weight"] = generator.uniform(-bound, bound, shape).astype(np.float32)
        weights[f"{name}.bias"] = generator.uniform(-bound, bound, shape[0]).astype(np.float32)
    return weights
