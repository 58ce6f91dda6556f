"""ResNet-18 on small images, written once and built for each library, for Avalon follows PyTorch.

The layers of He and others (2015) as they are used on 32x32 images: a 3x3 stem without pooling,
four stages of two blocks with 64, 128, 256 and 512 channels, the average over positions, a linear
layer to 10 classes; cross-entropy; SGD with momentum 0.9; a batch of 16. Both start from the same
weights.

Comes in: nothing. Goes out: a `Contest` (see contest.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import avalon as av
from benchmarks.contest import Competitor, Contest

BATCH = 16
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, and the stride of the first block


def contest() -> Contest:
    """The competitors, each with a training step that returns the loss and a prediction."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(BATCH, 3, 32, 32)).astype(np.float32)
    labels = generator.integers(0, 10, BATCH)
    torch.manual_seed(0)
    start = {name: value.numpy().copy() for name, value in build(torch).state_dict().items()}

    def side(lib: Any, compiled: bool) -> Competitor:
        net = build(lib)
        net.load_state_dict({name: lib.tensor(value) for name, value in start.items()})
        return competitor(lib, net, images, labels, compiled)

    return Contest(
        f"ResNet-18 on 32x32, batch {BATCH}",
        {
            "avalon": side(av, compiled=True),
            "avalon loop": side(av, compiled=False),
            "torch": side(torch, compiled=False),
            "torch.compile": side(torch, compiled=True),
        },
    )


def build(lib: Any) -> Any:
    """The network, made of the layers of `lib`: avalon or torch."""
    layers = lib.nn

    class Block(lib.nn.Module):
        """Two 3x3 convolutions around which the input is added."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = layers.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            self.bn1 = layers.BatchNorm2d(outputs)
            self.conv2 = layers.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.bn2 = layers.BatchNorm2d(outputs)
            self.shortcut = layers.Sequential()
            if inputs != outputs or stride != 1:
                self.shortcut = layers.Sequential(
                    layers.Conv2d(inputs, outputs, 1, stride, bias=False),
                    layers.BatchNorm2d(outputs),
                )

        def forward(self, x: Any) -> Any:
            y = layers.functional.relu(self.bn1(self.conv1(x)))
            return layers.functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    class Net(lib.nn.Module):
        """The stem, the stages and the classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = layers.Conv2d(3, 64, 3, padding=1, bias=False)
            self.bn = layers.BatchNorm2d(64)
            blocks, inputs = [], 64
            for outputs, stride in STAGES:
                blocks += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
                inputs = outputs
            self.blocks = layers.Sequential(*blocks)
            self.fc = layers.Linear(inputs, 10)

        def forward(self, x: Any) -> Any:
            x = self.blocks(layers.functional.relu(self.bn(self.conv(x))))
            return self.fc(x.mean((2, 3)))

    return Net()


def competitor(lib: Any, net: Any, images: Any, labels: Any, compiled: bool) -> Competitor:
    """One library's side; `compiled`: Avalon's steps or PyTorch's network go to `compile`."""
    optimizer = lib.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loss_of = lib.nn.functional.cross_entropy
    x, y = lib.tensor(images), lib.tensor(labels)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(network(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def forward(x: Any) -> Any:
        with lib.no_grad():
            return network(x)

    network = net
    if compiled and lib is av:
        step, forward = av.compile(step), av.compile(forward)
    elif compiled:
        network = lib.compile(net)

    def train() -> float:
        net.train()
        return float(step(x, y).item())

    def predict() -> Any:
        net.eval()
        return forward(x).numpy()

    return Competitor(train, predict)
