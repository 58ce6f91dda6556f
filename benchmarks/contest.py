"""What a workload hands to the measurement, and the optimizer that JAX does not bring along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

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
