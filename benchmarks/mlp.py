"""The two multilayer perceptrons of the benchmark, written once for each library.

4-64-64-2, a classifier that is nearly all overhead: batch 64, cross entropy; it predicts one row.
32-256-256-1, a regression: batch 256, mean squared error. ReLU between the layers, Adam with its
default settings.

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
import avalon.nn.functional as F
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
from benchmarks.nets import MLP, mlp_step

Widths = tuple[int, ...]


def small() -> Contest:
    """The classifier 4-64-64-2; predictions are of one row."""
    return _contest((4, 64, 64, 2), batch=64, rows=1)


def wide() -> Contest:
    """The regression 32-256-256-1."""
    return _contest((32, 256, 256, 1), batch=256, rows=256)


def _contest(widths: Widths, *, batch: int, rows: int) -> Contest:
    generator = np.random.default_rng(0)
    weights = {}
    for index, (m, n) in enumerate(pairwise(widths)):
        bound = 1 / math.sqrt(m)
        weights[f"layers.{index}.weight"] = generator.uniform(-bound, bound, (n, m))
        weights[f"layers.{index}.bias"] = generator.uniform(-bound, bound, n)
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    x = generator.standard_normal((batch, widths[0])).astype(np.float32)
    if widths[-1] == 1:
        y: Any = generator.standard_normal((batch, 1)).astype(np.float32)
    else:
        y = generator.integers(0, widths[-1], batch)
    row = x[:rows]
    return Contest(
        f"MLP {'-'.join(map(str, widths))}, batch {batch}",
        competitors(
            lambda compiled: _avalon(widths, weights, x, y, row, compiled),
            lambda compiled: _torch(widths, weights, x, y, row, compiled),
            _jax(widths, weights, x, y, row),
        ),
    )


def _avalon(
    widths: Widths, weights: Arrays, data: Any, target: Any, row: Any, compiled: bool
) -> Competitor:
    model = MLP(widths)
    av.load_state_dict(model, {name: av.tensor(value) for name, value in weights.items()})
    criterion = F.mse_loss if widths[-1] == 1 else F.cross_entropy
    step = mlp_step(model, criterion, av.optim.Adam(av.parameters(model), lr=1e-3))
    return avalon_competitor(step, model, (data, target), row, compiled)


def _torch(
    widths: Widths, weights: Arrays, data: Any, target: Any, row: Any, compiled: bool
) -> Competitor:
    functional = torch.nn.functional

    class TorchMLP(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(m, n) for m, n in pairwise(widths))

        def forward(self, x: Any) -> Any:
            for layer in self.layers[:-1]:
                x = functional.relu(layer(x))
            return self.layers[-1](x)

    model = TorchMLP()
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if compiled:
        model = torch.compile(model)
    criterion = functional.mse_loss if widths[-1] == 1 else functional.cross_entropy

    def loss_of(x: Any, y: Any) -> Any:
        return criterion(model(x), y)

    return torch_competitor(optimizer, loss_of, model, (data, target), row)


def _jax(widths: Widths, weights: Arrays, data: Any, target: Any, row: Any) -> Competitor:
    last = len(widths) - 2

    def forward(p: Arrays, x: Any) -> Any:
        for index in range(last + 1):
            x = x @ p[f"layers.{index}.weight"].T + p[f"layers.{index}.bias"]
            x = x if index == last else jax.nn.relu(x)
        return x

    def loss_of(p: Arrays, x: Any, y: Any) -> Any:
        out = forward(p, x)
        if widths[-1] == 1:
            return ((out - y) ** 2).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], 1).mean()

    predict = jax_predictor(forward, row)
    return jax_competitor(jax_step(loss_of), predict, weights, (data, target))
