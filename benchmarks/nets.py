"""The benchmark's networks and steps as a user of Avalon writes them; imports no other library."""

from __future__ import annotations

from collections.abc import Callable

import avalon as av
import avalon.nn.functional as F
from avalon import nn

PIXELS, HIDDEN, LATENT = 784, 500, 5


class Net:
    """The convolutional network: a plain object."""

    def __init__(self) -> None:
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.fc = nn.Linear(32 * 7 * 7, 10)

    def __call__(self, x: av.Tensor) -> av.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x))
        return F.log_softmax(self.fc(x.reshape(-1, 32 * 7 * 7)), dim=1)


def training_step(net: Net, optimizer: av.optim.Optimizer) -> Callable[..., av.Tensor]:
    """The step as a user of PyTorch writes it."""

    def step(x: av.Tensor, y: av.Tensor) -> av.Tensor:
        optimizer.zero_grad()
        loss = F.nll_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


class VAE:
    """The variational autoencoder: a plain object."""

    def __init__(self) -> None:
        self.encode = nn.Linear(PIXELS, HIDDEN)
        self.mean = nn.Linear(HIDDEN, LATENT)
        self.log_variance = nn.Linear(HIDDEN, LATENT)
        self.decode = nn.Linear(LATENT, HIDDEN)
        self.pixels = nn.Linear(HIDDEN, PIXELS)

    def __call__(self, x: av.Tensor) -> tuple[av.Tensor, av.Tensor, av.Tensor]:
        hidden = F.relu(self.encode(x))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = mean + av.randn_like(mean) * (log_variance * 0.5).exp()
        return self.pixels(F.relu(self.decode(latent))), mean, log_variance


def vae_step(model: VAE, optimizer: av.optim.Optimizer) -> Callable[..., av.Tensor]:
    """The step that lowers reconstruction error plus divergence, averaged over the batch."""

    def step(x: av.Tensor) -> av.Tensor:
        optimizer.zero_grad()
        logits, mean, log_variance = model(x)
        error = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean * mean - log_variance.exp()).sum()
        loss = (error + divergence) / len(x)
        loss.backward()
        optimizer.step()
        return loss

    return step
