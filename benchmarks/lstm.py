"""The recurrent network of the benchmark, written once for each library.

An LSTM with 64 inputs and 256 hidden units over sequences of length 64, a linear layer to 10
classes from the last output, cross entropy; a batch of 32 sequences; Adam with its default
settings.

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
from benchmarks.nets import Recurrent, recurrent_step

BATCH, LENGTH, INPUTS, HIDDEN, CLASSES = 32, 64, 64, 256, 10


def contest() -> Contest:
    """The competitors, each with a training step that returns the loss and a prediction."""
    generator = np.random.default_rng(0)
    shapes = {
        "lstm.weight_ih_l0": (4 * HIDDEN, INPUTS),
        "lstm.weight_hh_l0": (4 * HIDDEN, HIDDEN),
        "lstm.bias_ih_l0": (4 * HIDDEN,),
        "lstm.bias_hh_l0": (4 * HIDDEN,),
        "fc.weight": (CLASSES, HIDDEN),
        "fc.bias": (CLASSES,),
    }
    bound = 1 / math.sqrt(HIDDEN)
    weights = {
        name: generator.uniform(-bound, bound, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    x = generator.standard_normal((BATCH, LENGTH, INPUTS)).astype(np.float32)
    y = generator.integers(0, CLASSES, BATCH)
    return Contest(
        "LSTM 64-256, length 64, batch 32",
        competitors(
            lambda compiled: _avalon(weights, x, y, compiled),
            lambda compiled: _torch(weights, x, y, compiled),
            _jax(weights, x, y),
        ),
    )


def _avalon(weights: Arrays, sequences: Any, labels: Any, compiled: bool) -> Competitor:
    model = Recurrent(INPUTS, HIDDEN, CLASSES)
    av.load_state_dict(model, {name: av.tensor(value) for name, value in weights.items()})
    step = recurrent_step(model, av.optim.Adam(av.parameters(model), lr=1e-3))
    return avalon_competitor(step, model, (sequences, labels), sequences, compiled)


def _torch(weights: Arrays, sequences: Any, labels: Any, compiled: bool) -> Competitor:
    class TorchRecurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(INPUTS, HIDDEN, batch_first=True)
            self.fc = torch.nn.Linear(HIDDEN, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.fc(self.lstm(x)[0][:, -1])

    model = TorchRecurrent()
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if compiled:
        model = torch.compile(model)

    def loss_of(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(x), y)

    return torch_competitor(optimizer, loss_of, model, (sequences, labels), sequences)


def _jax(weights: Arrays, sequences: Any, labels: Any) -> Competitor:
    def forward(p: Arrays, x: Any) -> Any:
        bias = p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]
        projected = jnp.swapaxes(x @ p["lstm.weight_ih_l0"].T + bias, 0, 1)

        def cell(state: Any, row: Any) -> Any:
            hidden, memory = state
            gates = row + hidden @ p["lstm.weight_hh_l0"].T
            enter, forget, candidate, leave = jnp.split(gates, 4, axis=1)
            memory = jax.nn.sigmoid(forget) * memory + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
            return (jax.nn.sigmoid(leave) * jnp.tanh(memory), memory), None

        start = jnp.zeros((x.shape[0], HIDDEN))
        (last, _), _ = jax.lax.scan(cell, (start, start), projected)
        return last @ p["fc.weight"].T + p["fc.bias"]

    def loss_of(p: Arrays, x: Any, y: Any) -> Any:
        logs = jax.nn.log_softmax(forward(p, x))
        return -jnp.take_along_axis(logs, y[:, None], 1).mean()

    predict = jax_predictor(forward, sequences)
    return jax_competitor(jax_step(loss_of), predict, weights, (sequences, labels))
