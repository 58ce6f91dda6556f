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
from benchmarks.contest import Arrays, Competitor, Contest, jax_adam, jax_adam_state
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
        {
            "avalon": _avalon(weights, x, y, compiled=True),
            "avalon loop": _avalon(weights, x, y, compiled=False),
            "torch": _torch(weights, x, y, compiled=False),
            "torch.compile": _torch(weights, x, y, compiled=True),
            "jax": _jax(weights, x, y),
        },
    )


def _avalon(weights: Arrays, sequences: Any, labels: Any, *, compiled: bool) -> Competitor:
    model = Recurrent(INPUTS, HIDDEN, CLASSES)
    av.load_state_dict(model, {name: av.tensor(value) for name, value in weights.items()})
    step = recurrent_step(model, av.optim.Adam(av.parameters(model), lr=1e-3))
    x, y = av.tensor(sequences), av.tensor(labels)

    def forward(x: av.Tensor) -> av.Tensor:
        with av.no_grad():
            return model(x)

    if compiled:
        step, forward = av.compile(step), av.compile(forward)
    return Competitor(lambda: step(x, y).item(), lambda: forward(x).numpy())


def _torch(weights: Arrays, sequences: Any, labels: Any, *, compiled: bool) -> Competitor:
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
    x, y = torch.tensor(sequences), torch.tensor(labels)

    def train() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    def predict() -> Any:
        with torch.no_grad():
            return model(x).numpy()

    return Competitor(train, predict)


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

    def step(p: Arrays, state: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(p, x, y)
        return loss, *jax_adam(p, state, gradients)

    compiled_step = jax.jit(step, donate_argnums=(0, 1))
    compiled_forward = jax.jit(forward)
    x, y = jnp.asarray(sequences), jnp.asarray(labels)
    parameters = {name: jnp.array(value) for name, value in weights.items()}
    trained = [parameters, jax_adam_state(parameters)]

    def train() -> float:
        loss, *trained[:] = compiled_step(*trained, x, y)
        jax.block_until_ready(trained)
        return float(loss)

    return Competitor(train, lambda: np.asarray(compiled_forward(trained[0], x)))
