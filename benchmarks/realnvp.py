"""The normalizing flow of the benchmark, written once for each library.

RealNVP on two-dimensional data: 6 affine couplings with alternating masks, each with a network
2-256-256-2 for the scale (ended by tanh) and one for the shift; a batch of 200 points; negative
log-likelihood under a standard normal; Adam with its default settings. It predicts log-densities.

Comes in: the weights and the batch, as NumPy arrays. Goes out: a `Contest` (see contest.py).
"""

from __future__ import annotations

import math
from itertools import pairwise
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
from benchmarks.nets import RealNVP, realnvp_step

BATCH, WIDTH, COUPLINGS = 200, 256, 6
WIDTHS = (2, WIDTH, WIDTH, 2)
MASKS = [(0.0, 1.0), (1.0, 0.0)] * (COUPLINGS // 2)
NORMAL = math.log(2 * math.pi)


def contest() -> Contest:
    """The competitors, each with a training step that returns the loss and a density."""
    generator = np.random.default_rng(0)
    weights = {}
    for index in range(COUPLINGS):
        for net in ("scale", "shift"):
            for layer, (m, n) in enumerate(pairwise(WIDTHS)):
                name, bound = f"couplings.{index}.{net}.layers.{layer}", 1 / math.sqrt(m)
                weights[f"{name}.weight"] = generator.uniform(-bound, bound, (n, m))
                weights[f"{name}.bias"] = generator.uniform(-bound, bound, n)
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    points = generator.standard_normal((BATCH, 2)).astype(np.float32)
    return Contest(
        "RealNVP 6 x 256, batch 200",
        competitors(
            lambda compiled: _avalon(weights, points, compiled),
            lambda compiled: _torch(weights, points, compiled),
            _jax(weights, points),
        ),
    )


def _avalon(weights: Arrays, points: Any, compiled: bool) -> Competitor:
    model = RealNVP(MASKS, WIDTH)
    av.load_state_dict(
        model, {name: av.tensor(value) for name, value in weights.items()}, strict=False
    )
    step = realnvp_step(model, av.optim.Adam(av.parameters(model), lr=1e-3))
    return avalon_competitor(step, model, (points,), points, compiled)


def _torch(weights: Arrays, points: Any, compiled: bool) -> Competitor:
    layers = torch.nn

    def network() -> Any:
        return layers.ModuleDict(
            {"layers": layers.ModuleList(layers.Linear(m, n) for m, n in pairwise(WIDTHS))}
        )

    def apply(net: Any, x: Any) -> Any:
        first, second, third = net["layers"]
        return third(torch.relu(second(torch.relu(first(x)))))

    model = layers.ModuleDict(
        {
            "couplings": layers.ModuleList(
                layers.ModuleDict({"scale": network(), "shift": network()}) for _ in MASKS
            )
        }
    )
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    masks = [torch.tensor(mask) for mask in MASKS]

    def density(x: Any) -> Any:
        volume = torch.zeros(len(x))
        for coupling, mask in zip(model["couplings"], masks, strict=True):
            kept, moved = mask * x, 1 - mask
            scale = torch.tanh(apply(coupling["scale"], kept)) * moved
            shift = apply(coupling["shift"], kept) * moved
            x = kept + moved * (x - shift) * torch.exp(-scale)
            volume = volume - scale.sum(1)
        return volume - 0.5 * (x * x).sum(1) - 0.5 * x.shape[1] * NORMAL

    if compiled:
        density = torch.compile(density)

    def loss_of(x: Any) -> Any:
        return -density(x).mean()

    return torch_competitor(optimizer, loss_of, density, (points,), points)


def _jax(weights: Arrays, points: Any) -> Competitor:
    masks = [np.array(mask, np.float32) for mask in MASKS]

    def apply(p: Arrays, net: str, x: Any) -> Any:
        for layer in range(3):
            name = f"{net}.layers.{layer}"
            x = x @ p[f"{name}.weight"].T + p[f"{name}.bias"]
            x = jax.nn.relu(x) if layer < 2 else x
        return x

    def density(p: Arrays, x: Any) -> Any:
        volume = jnp.zeros(len(x))
        for index, mask in enumerate(masks):
            kept, moved = mask * x, 1 - mask
            scale = jnp.tanh(apply(p, f"couplings.{index}.scale", kept)) * moved
            shift = apply(p, f"couplings.{index}.shift", kept) * moved
            x = kept + moved * (x - shift) * jnp.exp(-scale)
            volume = volume - scale.sum(1)
        return volume - 0.5 * (x * x).sum(1) - 0.5 * x.shape[1] * NORMAL

    def loss_of(p: Arrays, x: Any) -> Any:
        return -density(p, x).mean()

    predict = jax_predictor(density, points)
    return jax_competitor(jax_step(loss_of), predict, weights, (points,))
