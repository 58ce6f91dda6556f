"""What a workload hands to the measurement, and what the sides of a library have in common.

Comes in: a model in each library, what gives its loss and what it predicts. Goes out: a `Contest`
of `Competitor`s. Guaranteed: all libraries do the same work; a step ends by reading the loss, a
prediction by reading the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import avalon as av

Arrays = dict[str, Any]
Turns = dict[str, list[float]]


@dataclass(frozen=True)
class Competitor:
    """One library's side: `train` does a step and returns its loss, `predict` returns an array."""

    train: Callable[[], float]
    predict: Callable[[], Any]


@dataclass(frozen=True)
class Contest:
    """A workload: its title and its competitors by name."""

    title: str
    competitors: dict[str, Competitor]


def competitors(
    avalon: Callable[[bool], Competitor],
    peer: Callable[[bool], Competitor],
    jax_side: Competitor,
) -> dict[str, Competitor]:
    """Name the sides: Avalon and PyTorch, given whether they are compiled, enter in both ways."""
    return {
        "avalon": avalon(True),
        "avalon loop": avalon(False),
        "torch": peer(False),
        "torch.compile": peer(True),
        "jax": jax_side,
    }


def avalon_competitor(
    step: Callable[..., av.Tensor],
    forward: Callable[[av.Tensor], av.Tensor],
    batch: Sequence[Any],
    sample: Any,
    compiled: bool,
) -> Competitor:
    """Avalon's side: a step that trains on the batch, and what is predicted for the sample."""

    def predict(x: av.Tensor) -> av.Tensor:
        with av.no_grad():
            return forward(x)

    if compiled:
        step, predict = av.compile(step), av.compile(predict)
    given, one = [av.tensor(array) for array in batch], av.tensor(sample)
    return Competitor(lambda: step(*given).item(), lambda: predict(one).numpy())


def torch_competitor(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[..., Any],
    forward: Callable[[Any], Any],
    batch: Sequence[Any],
    sample: Any,
) -> Competitor:
    """PyTorch's side: what the loss of the batch is, and what is predicted for the sample."""
    given, one = [torch.tensor(array) for array in batch], torch.tensor(sample)

    def train() -> float:
        optimizer.zero_grad()
        loss = loss_of(*given)
        loss.backward()
        optimizer.step()
        return loss.item()

    def predict() -> Any:
        with torch.no_grad():
            return forward(one).numpy()

    return Competitor(train, predict)


def jax_competitor(
    step: Callable[..., Any],
    predict: Callable[[list[Any]], Any],
    weights: Arrays,
    batch: Sequence[Any],
    *states: Any,
) -> Competitor:
    """JAX's side: a step from parameters, the state of Adam, further states and the batch to the
    loss and all of them anew; and what the trained predict.
    """
    parameters = {name: jnp.array(value) for name, value in weights.items()}
    trained = [parameters, jax_adam_state(parameters), *states]
    compiled = jax.jit(step, donate_argnums=tuple(range(len(trained))))
    given = [jnp.asarray(array) for array in batch]

    def train() -> float:
        loss, *trained[:] = compiled(*trained, *given)
        jax.block_until_ready(trained)
        return float(loss)

    return Competitor(train, lambda: np.asarray(predict(trained)))


def jax_predictor(forward: Callable[[Arrays, Any], Any], sample: Any) -> Callable[[list[Any]], Any]:
    """What a jitted function of the parameters predicts for the sample."""
    compiled, one = jax.jit(forward), jnp.asarray(sample)
    return lambda trained: compiled(trained[0], one)


def jax_step(loss_of: Callable[..., Any], lr: float = 1e-3) -> Callable[..., Any]:
    """A step of Adam down the gradient of `loss_of(parameters, *batch)`."""

    def step(p: Arrays, state: Any, *batch: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(p, *batch)
        return loss, *jax_adam(p, state, gradients, lr)

    return step


def jax_adam_state(parameters: Arrays) -> Any:
    """Zero moments and the step count."""
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.zeros((), jnp.int32)


def jax_adam(parameters: Arrays, state: Any, gradients: Arrays, lr: float = 1e-3) -> Any:
    """One step of Adam as PyTorch defines it; returns the new parameters and state."""
    first, second, count = state
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    rate = lr / (1 - 0.9**count)
    scale = jnp.sqrt(1 - 0.999**count)

    def update(p: Any, m: Any, v: Any) -> Any:
        return p - rate * m / (jnp.sqrt(v) / scale + 1e-8)

    return jax.tree.map(update, parameters, first, second), (first, second, count)
