"""Adam and its relatives: steps by running averages of gradients and of their squares.

Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html
"""

from __future__ import annotations

from typing import Any

from avalon import dtype as dtypes
from avalon.functions import maximum, where
from avalon.optim.optimizer import (
    Group,
    Optimizer,
    State,
    check,
    like,
)
from avalon.tensor import Tensor

Rate = float | Tensor


class _Averages(Optimizer):
    """State and bias corrections of the Adam family."""

    def _start(self, parameter: Tensor, group: Group) -> State:
        state = {"step": None, "exp_avg": like(parameter), "exp_avg_sq": like(parameter)}
        if group.get("amsgrad"):
            state["max_exp_avg_sq"] = like(parameter)
        return state

    def _steps(self, state: State) -> Tensor:
        """The step count in float64, in which powers of the betas are taken."""
        count: Tensor = state["step"]
        made: Tensor = self.shared(("count", id(count)), lambda: count.to(dtypes.float64))
        return made

    def _correction(self, state: State, beta: float) -> Tensor:
        """1 - beta ** step."""
        step = self._steps(state)
        made: Tensor = self.shared(("correction", id(step), beta), lambda: 1 - beta**step)
        return made

    def _decay(self, parameter: Tensor, gradient: Tensor, group: Group) -> tuple[Tensor, Tensor]:
        """The parameter and the gradient, one of them after weight decay as the group says."""
        weight_decay = group["weight_decay"]
        if group["decoupled_weight_decay"]:
            return parameter * (1 - group["lr"] * weight_decay), gradient
        return parameter, self.decayed(parameter, gradient, weight_decay)


class Adam(_Averages):
    """Steps of lr times the mean gradient over the root of the mean square, bias corrected.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html

    >>> import avalon as av
    >>> w = av.tensor([1.0], requires_grad=True)
    >>> optimizer = av.optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.9000], requires_grad=True)
    """

    decoupled = False  # weight decay joins the gradient

    def __init__(
        self,
        params: Any = None,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check(
            type(self).__name__, lr=lr, eps=eps, beta1=betas[0], beta2=betas[1],  # type: ignore[arg-type]
            weight_decay=weight_decay,
        )  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
        )

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        beta1, beta2 = group["betas"]
        lr, weight_decay = group["lr"], group["weight_decay"]
        value: Tensor = parameter
        if not self.decoupled:
            gradient = self.decayed(parameter, gradient, weight_decay)
        elif weight_decay != 0:
            value = parameter * self.scalar(1 - lr * weight_decay, parameter)
        mean = self.move_towards(state["exp_avg"], gradient, 1 - beta1)
        square = self.gather_squares(state["exp_avg_sq"], gradient, beta2)
        if group["amsgrad"]:
            square = state["max_exp_avg_sq"].assign_(maximum(state["max_exp_avg_sq"], square))
        first, second = self._correction(state, beta1), self._correction(state, beta2)
        step_size = self.shared(("size", id(first), id(group)), lambda: -(lr / first))
        root = self.shared(("root", id(second)), lambda: second.sqrt())
        size = square.sqrt() / self.scalar(root, parameter) + self.scalar(group["eps"], parameter)
        parameter.assign_(value + mean * self.scalar(step_size, parameter) / size)


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: p *= 1 - lr * weight_decay first.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html
    """

    decoupled = True

    def __init__(
        self,
        params: Any = None,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)


class Adamax(_Averages):
    """Adam with a running maximum in place of the mean square.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adamax.html
    """

    def __init__(
        self,
        params: Any = None,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check("Adamax", lr=lr, eps=eps, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay)  # type: ignore[arg-type]
        settings = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "maximize": maximize})

    def _start(self, parameter: Tensor, group: Group) -> State:
        return {"step": None, "exp_avg": like(parameter), "exp_inf": like(parameter)}

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        beta1, beta2 = group["betas"]
        gradient = self.decayed(parameter, gradient, group["weight_decay"])
        mean = self.move_towards(state["exp_avg"], gradient, 1 - beta1)
        largest = maximum(state["exp_inf"] * beta2, gradient.abs() + group["eps"])
        state["exp_inf"].assign_(largest)
        step_size = group["lr"] / self._correction(state, beta1)
        parameter.assign_(parameter + mean * -step_size / largest)


class NAdam(_Averages):
    """Adam with Nesterov's momentum.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.NAdam.html
    """

    def __init__(
        self,
        params: Any = None,
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check("NAdam", lr=lr, eps=eps, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay)  # type: ignore[arg-type]
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def _start(self, parameter: Tensor, group: Group) -> State:
        state = super()._start(parameter, group)
        state["mu_product"] = parameter.new_ones(())
        return state

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        beta1, beta2 = group["betas"]
        lr, decay = group["lr"], group["momentum_decay"]
        value, gradient = self._decay(parameter, gradient, group)
        step = self._steps(state)
        now = beta1 * (1.0 - 0.5 * (0.96 ** (step * decay)))
        after = beta1 * (1.0 - 0.5 * (0.96 ** ((step + 1) * decay)))
        product = state["mu_product"].assign_(state["mu_product"] * now.to(parameter.dtype))
        mean = self.move_towards(state["exp_avg"], gradient, 1 - beta1)
        square = self.gather_squares(state["exp_avg_sq"], gradient, beta2)
        spread = (square / self._correction(state, beta2)).sqrt() + group["eps"]
        value = value + gradient * (-lr * (1.0 - now) / (1.0 - product)) / spread
        parameter.assign_(value + mean * (-lr * after / (1.0 - product * after)) / spread)


class RAdam(_Averages):
    """Adam whose steps are plain momentum until the variance of the squares is known.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.RAdam.html
    """

    def __init__(
        self,
        params: Any = None,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check("RAdam", lr=lr, eps=eps, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay)  # type: ignore[arg-type]
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        beta1, beta2 = group["betas"]
        lr = group["lr"]
        value, gradient = self._decay(parameter, gradient, group)
        mean = self.move_towards(state["exp_avg"], gradient, 1 - beta1)
        square = self.gather_squares(state["exp_avg_sq"], gradient, beta2)
        step, second = self._steps(state), self._correction(state, beta2)
        limit = 2 / (1 - beta2) - 1
        length = limit - 2 * step * (beta2**step) / second
        known = length > 5.0
        safe = where(known, length, 6.0)
        rectified = ((safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe)).sqrt()
        adaptive = (second.sqrt() * rectified).to(parameter.dtype) / (square.sqrt() + group["eps"])
        direction = mean / self._correction(state, beta1) * lr
        parameter.assign_(value - where(known, direction * adaptive, direction))
