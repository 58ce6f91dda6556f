"""A variational autoencoder: images pressed into a few numbers that follow a normal distribution.

Comes in: images (N, pixels) with values in [0, 1]. Goes out: the logits of the reconstructed
pixels, and the mean and log-variance of each image's latent numbers.
"""

from __future__ import annotations

import avalon.nn.functional as F
from avalon import nn
from avalon.functions.creation import randn_like
from avalon.tensor import Tensor


class VAE:
    """An encoder and a decoder with one hidden layer each, 784-500-5-500-784 unless told otherwise.

    Source: Kingma, Welling, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114
    """

    def __init__(self, pixels: int = 784, hidden: int = 500, latent: int = 5) -> None:
        self.encoder = nn.Linear(pixels, hidden)
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Linear(latent, hidden)
        self.pixels = nn.Linear(hidden, pixels)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x)
        latent = mean + randn_like(mean) * (log_variance / 2).exp()
        return self.decode(latent), mean, log_variance

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and log-variance (N, latent) of images (N, pixels)."""
        hidden = F.relu(self.encoder(x))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, latent: Tensor) -> Tensor:
        """The logits (N, pixels) of the images that latent numbers (N, latent) stand for."""
        return self.pixels(F.relu(self.decoder(latent)))


def vae_loss(outputs: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
    """Reconstruction error plus divergence from the normal distribution, a mean over images."""
    logits, mean, log_variance = outputs
    error = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    divergence = -0.5 * (1 + log_variance - mean * mean - log_variance.exp()).sum()
    return (error + divergence) / len(images)
