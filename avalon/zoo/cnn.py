"""A convolutional network that reads handwritten digits.

Comes in: images (N, 1, 28, 28), float32. Goes out: the logarithms of ten class probabilities.
"""

from __future__ import annotations

import avalon.nn.functional as F
from avalon import nn
from avalon.tensor import Tensor


class CNN:
    """LeNet-5 with ReLU and max pooling. Any object with layers in its fields is a model.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE, 1998.
    """

    def __init__(self) -> None:
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.fc2 = nn.Linear(500, 10)

    def __call__(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.reshape(-1, 4 * 4 * 50)))
        return F.log_softmax(self.fc2(x), dim=1)
