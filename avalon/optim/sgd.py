"""Stochastic gradient descent.

Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
"""

from __future__ import annotations

from typing import Any

from avalon.optim.optimizer import Group, Optimizer, State, check, fresh
from avalon.tensor import Tensor


class SGD(Optimizer):
    """p -= lr * g, with momentum, Nesterov's momentum and weight decay if asked for.

    >>> import avalon as av
    >>> w = av.tensor([1.0], requires_grad=True)
    >>> optimizer = av.optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.8000], requires_grad=True)
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("[SGD] Nesterov momentum requires a momentum and zero dampening")
        check("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)  # type: ignore[arg-type]
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _start(self, parameter: Tensor, group: Group) -> State:
        if group["momentum"] == 0 or group["dampening"] != 0:
            return {}
        # PyTorch begins with a copy of the gradient. That is what the formula of the later steps
        # makes of -0, whatever the gradient is; so the first step is recorded like the others.
        return {"momentum_buffer": fresh(-0.0, tuple(parameter.shape), parameter.dtype)}

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        gradient = self.decayed(parameter, gradient, group["weight_decay"])
        momentum = group["momentum"]
        if momentum != 0:
            velocity = state.get("momentum_buffer")
            if velocity is None:
                velocity = state["momentum_buffer"] = gradient.clone()
            else:
                kept = velocity * self.scalar(momentum, gradient)
                share = gradient
                if group["dampening"] != 0:
                    share = gradient * self.scalar(1 - group["dampening"], gradient)
                velocity.assign_(kept + share)
            if group["nesterov"]:
                gradient = gradient + velocity * self.scalar(momentum, gradient)
            else:
                gradient = velocity
        parameter.assign_(parameter + gradient * self.scalar(-group["lr"], parameter))
