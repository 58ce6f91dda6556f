"""What operations cost, about: decides what is worth computing twice, how finely work is cut."""

from __future__ import annotations

_COSTS = {
    "exp": 12, "expm1": 16, "log": 14, "log1p": 18, "sin": 20, "cos": 20, "tanh": 20, "erf": 24,
    "erfinv": 30, "lgamma": 60, "digamma": 60, "polygamma": 80, "power": 40, "atan2": 30,
    "divide": 4, "sqrt": 4, "floor_divide": 8, "remainder": 8,
}  # fmt: skip


def cost_of_call(name: str) -> int:
    """Elementary operations of one element of the elementwise primitive `name`."""
    return _COSTS.get(name, 1)
