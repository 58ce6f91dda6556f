"""The benchmark's networks and steps as a user of Avalon writes them; imports no other library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

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


def training_step(
    net: Callable[[av.Tensor], av.Tensor], optimizer: av.optim.Optimizer
) -> Callable[..., av.Tensor]:
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


class MLP:
    """A multilayer perceptron with ReLU between its linear layers: a plain object."""

    def __init__(self, widths: Sequence[int]) -> None:
        self.layers = [nn.Linear(m, n) for m, n in pairwise(widths)]

    def __call__(self, x: av.Tensor) -> av.Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Block:
    """A pre-norm transformer block with causal self-attention: a plain object."""

    def __init__(self, width: int, heads: int) -> None:
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def __call__(self, x: av.Tensor) -> av.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class GPT:
    """A character model with learned positions: a plain object."""

    def __init__(self, vocabulary: int, context: int, width: int, heads: int, depth: int) -> None:
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = [Block(width, heads) for _ in range(depth)]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def __call__(self, tokens: av.Tensor) -> av.Tensor:
        x = self.token(tokens) + self.position(av.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def gpt_step(model: GPT, optimizer: av.optim.Optimizer) -> Callable[..., av.Tensor]:
    """The step that lowers the cross entropy of the next character."""

    def step(x: av.Tensor, y: av.Tensor) -> av.Tensor:
        optimizer.zero_grad()
        logits = model(x)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))
        loss.backward()
        optimizer.step()
        return loss

    return step


class Coupling:
    """A masked affine coupling of RealNVP, from data to noise: a plain object."""

    def __init__(self, mask: Sequence[float], width: int) -> None:
        self.mask = av.buffer(av.tensor(mask))
        self.scale = MLP((len(mask), width, width, len(mask)))
        self.shift = MLP((len(mask), width, width, len(mask)))

    def __call__(self, x: av.Tensor) -> tuple[av.Tensor, av.Tensor]:
        kept, moved = self.mask * x, 1 - self.mask
        scale = F.tanh(self.scale(kept)) * moved
        shift = self.shift(kept) * moved
        return kept + moved * (x - shift) * (-scale).exp(), -scale.sum(1)


class RealNVP:
    """Couplings with alternating masks: a plain object. Calling it gives log-densities."""

    def __init__(self, masks: Sequence[Sequence[float]], width: int) -> None:
        self.couplings = [Coupling(mask, width) for mask in masks]

    def __call__(self, x: av.Tensor) -> av.Tensor:
        volume = av.zeros(len(x))
        for coupling in self.couplings:
            x, change = coupling(x)
            volume = volume + change
        return volume - 0.5 * (x * x).sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def realnvp_step(model: RealNVP, optimizer: av.optim.Optimizer) -> Callable[..., av.Tensor]:
    """The step that lowers the negative log-likelihood."""

    def step(x: av.Tensor) -> av.Tensor:
        optimizer.zero_grad()
        loss = -model(x).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def mlp_step(
    model: MLP, criterion: Callable[..., av.Tensor], optimizer: av.optim.Optimizer
) -> Callable[..., av.Tensor]:
    """The step of a supervised model with any loss."""

    def step(x: av.Tensor, y: av.Tensor) -> av.Tensor:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


class Recurrent:
    """An LSTM whose last output is classified: a plain object."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def __call__(self, x: av.Tensor) -> av.Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


def recurrent_step(model: Recurrent, optimizer: av.optim.Optimizer) -> Callable[..., av.Tensor]:
    """The step that lowers the cross entropy."""

    def step(x: av.Tensor, y: av.Tensor) -> av.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step
