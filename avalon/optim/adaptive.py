"""RMSprop, Adagrad and Adadelta: steps divided by the size of recent or all gradients.

Source: https://docs.pytorch.org/docs/stable/optim.html#algorithms
"""

from __future__ import annotations

from typing import Any

from avalon import dtype as dtypes
from avalon.functions import full_like
from avalon.optim.optimizer import (
    Group,
    Optimizer,
    State,
    check,
    like,
)
from avalon.tensor import Tensor

Rate = float | Tensor


class RMSprop(Optimizer):
    """Steps of lr times the gradient over the root of its running mean square.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html
    """

    def __init__(
        self,
        params: Any = None,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check(
            "RMSprop", lr=lr, eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha,  # type: ignore[arg-type]
        )  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def _start(self, parameter: Tensor, group: Group) -> State:
        state = {"step": None, "square_avg": like(parameter)}
        if group["momentum"] > 0:
            state["momentum_buffer"] = like(parameter)
        if group["centered"]:
            state["grad_avg"] = like(parameter)
        return state

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        gradient = self.decayed(parameter, gradient, group["weight_decay"])
        square = self.gather_squares(state["square_avg"], gradient, group["alpha"])
        if group["centered"]:
            mean = self.move_towards(state["grad_avg"], gradient, 1 - group["alpha"])
            square = square - mean * mean
        size = square.sqrt() + self.scalar(group["eps"], parameter)
        rate = self.scalar(-group["lr"], parameter)
        if group["momentum"] > 0:
            velocity = state["momentum_buffer"]
            kept = velocity * self.scalar(group["momentum"], parameter)
            velocity.assign_(kept + gradient / size)
            parameter.assign_(parameter + velocity * rate)
        else:
            parameter.assign_(parameter + gradient * rate / size)


class Adagrad(Optimizer):
    """Steps of lr times the gradient over the root of the sum of all its squares.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html
    """

    def __init__(
        self,
        params: Any = None,
        lr: Rate = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check(
            "Adagrad", lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps,  # type: ignore[arg-type]
            initial_accumulator_value=initial_accumulator_value,
        )  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
        )

    def _start(self, parameter: Tensor, group: Group) -> State:
        start = full_like(parameter, group["initial_accumulator_value"])
        return {"step": None, "sum": start}

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        gradient = self.decayed(parameter, gradient, group["weight_decay"])
        step = state["step"].to(dtypes.float64)
        rate = group["lr"] / (1 + (step - 1) * group["lr_decay"])
        total = state["sum"].assign_(state["sum"] + gradient * gradient)
        parameter.assign_(parameter + gradient * -rate / (total.sqrt() + group["eps"]))


class Adadelta(Optimizer):
    """Steps whose size is that of recent steps over that of recent gradients.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html
    """

    def __init__(
        self,
        params: Any = None,
        lr: Rate = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"[Adadelta] Invalid rho value: {rho}; expected 0 <= rho <= 1")
        check("Adadelta", lr=lr, eps=eps, weight_decay=weight_decay)  # type: ignore[arg-type]
        settings = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "maximize": maximize})

    def _start(self, parameter: Tensor, group: Group) -> State:
        return {"step": None, "square_avg": like(parameter), "acc_delta": like(parameter)}

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        rho, eps = group["rho"], group["eps"]
        gradient = self.decayed(parameter, gradient, group["weight_decay"])
        square = self.gather_squares(state["square_avg"], gradient, rho)
        step = (state["acc_delta"] + eps).sqrt() / (square + eps).sqrt() * gradient
        self.gather_squares(state["acc_delta"], step, rho)
        parameter.assign_(parameter + step * -group["lr"])
