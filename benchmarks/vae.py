"""The variational autoencoder of the benchmark, written once for each library.

784-500-5: a hidden layer of 500 and 5 latent numbers, on either side; a batch of 100 images of 784
pixels; binary cross entropy and Kullback-Leibler divergence, summed over an image and averaged over
the batch; Adam with its default settings. It reconstructs one image. Each library draws the noise
with its own generator.

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
    jax_adam,
    jax_competitor,
    torch_competitor,
)
from benchmarks.nets import HIDDEN, LATENT, PIXELS, VAE, vae_step

BATCH = 100
SHAPES = {
    "encode": (HIDDEN, PIXELS),
    "mean": (LATENT, HIDDEN),
    "log_variance": (LATENT, HIDDEN),
    "decode": (HIDDEN, LATENT),
    "pixels": (PIXELS, HIDDEN),
}


def contest() -> Contest:
    """The competitors, each with a training step that returns the loss and a reconstruction."""
    generator = np.random.default_rng(0)
    weights = {}
    for name, shape in SHAPES.items():
        bound = 1 / math.sqrt(shape[1])
        weights[f"{name}.weight"] = generator.uniform(-bound, bound, shape).astype(np.float32)
        weights[f"{name}.bias"] = generator.uniform(-bound, bound, shape[0]).astype(np.float32)
    images = generator.random((BATCH, PIXELS), np.float32)
    return Contest(
        "VAE 784-500-5, batch 100",
        competitors(
            lambda compiled: _avalon(weights, images, compiled),
            lambda compiled: _torch(weights, images, compiled),
            _jax(weights, images),
        ),
    )


def _avalon(weights: Arrays, images: Any, compiled: bool) -> Competitor:
    model = VAE()
    av.load_state_dict(model, {name: av.tensor(value) for name, value in weights.items()})
    step = vae_step(model, av.optim.Adam(av.parameters(model), lr=1e-3))

    def reconstruct(x: av.Tensor) -> av.Tensor:
        return model(x)[0].sigmoid()

    return avalon_competitor(step, reconstruct, (images,), images[:1], compiled)


def _torch(weights: Arrays, images: Any, compiled: bool) -> Competitor:
    functional = torch.nn.functional
    model = torch.nn.ModuleDict(
        {name: torch.nn.Linear(shape[1], shape[0]) for name, shape in SHAPES.items()}
    )
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def forward(x: Any) -> Any:
        hidden = functional.relu(model["encode"](x))
        mean, log_variance = model["mean"](hidden), model["log_variance"](hidden)
        latent = mean + torch.randn_like(mean) * (log_variance * 0.5).exp()
        return model["pixels"](functional.relu(model["decode"](latent))), mean, log_variance

    if compiled:
        forward = torch.compile(forward)

    def loss_of(x: Any) -> Any:
        logits, mean, log_variance = forward(x)
        error = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean * mean - log_variance.exp()).sum()
        return (error + divergence) / BATCH

    def reconstruct(x: Any) -> Any:
        return forward(x)[0].sigmoid()

    return torch_competitor(optimizer, loss_of, reconstruct, (images,), images[:1])


def _jax(weights: Arrays, images: Any) -> Competitor:
    def linear(p: Arrays, name: str, x: Any) -> Any:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def forward(p: Arrays, x: Any, key: Any) -> Any:
        hidden = jax.nn.relu(linear(p, "encode", x))
        mean, log_variance = linear(p, "mean", hidden), linear(p, "log_variance", hidden)
        latent = mean + jax.random.normal(key, mean.shape) * jnp.exp(log_variance * 0.5)
        return linear(p, "pixels", jax.nn.relu(linear(p, "decode", latent))), mean, log_variance

    def loss_of(p: Arrays, x: Any, key: Any) -> Any:
        logits, mean, log_variance = forward(p, x, key)
        error = (jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-abs(logits)))).sum()
        divergence = -0.5 * (1 + log_variance - mean * mean - jnp.exp(log_variance)).sum()
        return (error + divergence) / BATCH

    def step(p: Arrays, state: Any, key: Any, x: Any) -> Any:
        key, draw = jax.random.split(key)
        loss, gradients = jax.value_and_grad(loss_of)(p, x, draw)
        return loss, *jax_adam(p, state, gradients), key

    reconstruct = jax.jit(lambda p, x, key: jax.nn.sigmoid(forward(p, x, key)[0]))
    one = jnp.asarray(images[:1])

    def predict(trained: list[Any]) -> Any:
        return reconstruct(trained[0], one, trained[2])

    return jax_competitor(step, predict, weights, (images,), jax.random.key(0))
