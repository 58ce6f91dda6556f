"""Optimizer: what all optimizers share, whichever way they are used.

Comes in: parameters with gradients (`Adam(params, lr).step()`), or a model and a structure of
gradients (`av.update(Adam(lr=...), model, gradients)`). Goes out: parameters and state, written in
place.
Guaranteed: both ways run the same formulas and give the same bits; the settings (lr, betas, ...)
are run-time numbers, step counts are tensors, so that neither compiles anything again; a parameter
without gradient is left alone.

Source: https://docs.pytorch.org/docs/stable/optim.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from avalon.dtype import DType
from avalon.errors import CheckpointError
from avalon.optim.traced import plan_for
from avalon.rebinding import CountedDict
from avalon.shape import Shape
from avalon.tensor import (
    Tensor,
    as_tensor,
    enable_grad,
    get_default_dtype,
    no_grad,
    synchronize,
)
from avalon.tracing.modes import modes
from avalon.tracing.values import Value, encode

State = dict[str, Any]
Group = dict[str, Any]


class Optimizer:
    """Base class of optimizers. A subclass gives its settings to `__init__` and writes `_update`.

    Attributes:
        defaults: the settings; those of the functional way.
        param_groups: groups of parameters with their settings; empty in the functional way.
        state: the state of each parameter, by the parameter or, in the functional way, by its path.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        name = type(self).__name__
        if isinstance(params, (int, float)):
            raise TypeError(
                f"[{name}] the first argument is the parameters, got {params!r}; write "
                f"{name}(lr={params!r}) to use it with av.update or av.fit, or "
                f"{name}(model.parameters(), lr={params!r})"
            )
        if isinstance(params, Tensor):
            raise TypeError(
                f"[{name}] params must be an iterable of tensors or dicts, got a tensor; write "
                "[tensor]"
            )
        self.defaults: Group = CountedDict(defaults)
        self.param_groups: list[Group] = []
        self.state: dict[Any, State] = CountedDict()
        self._shared: dict[Any, Any] = {}
        if params is None:
            return
        groups = list(params.values()) if isinstance(params, Mapping) else list(params)
        if not groups:
            raise ValueError(
                f"[{name}] optimizer got an empty parameter list; does the model have nn.Parameter "
                "fields? For a plain struct write av.parameters(model)"
            )
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own.

        Raises:
            ValueError: a parameter is not a leaf, or is in a group already.
        """
        name = type(self).__name__
        given = param_group["params"]
        listed = [given] if isinstance(given, Tensor) else list(given)
        # (name, parameter) pairs, as named_parameters() gives them, are welcome too
        parameters = [one[1] if isinstance(one, tuple) else one for one in listed]
        known = {id(p) for group in self.param_groups for p in group["params"]}
        for parameter in parameters:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    f"[{name}] can only optimize tensors, got {type(parameter).__name__}"
                )
            if not parameter.is_leaf:
                raise ValueError(f"[{name}] can't optimize a non-leaf Tensor")
            if id(parameter) in known:
                raise ValueError(
                    f"[{name}] some parameters appear in more than one parameter group"
                )
        group = CountedDict({**self.defaults, **param_group, "params": parameters})
        self.param_groups.append(group)

    def settings(self) -> list[Group]:
        """The dicts that hold the settings: the groups, or the one of the functional way."""
        return self.param_groups or [self.defaults]

    @property
    def lr(self) -> float:
        """The learning rate (of the first group); setting it sets that of all groups."""
        rate: float = self.settings()[0]["lr"]
        return rate

    @lr.setter
    def lr(self, rate: float | Tensor) -> None:
        for group in (self.defaults, *self.param_groups):
            group["lr"] = rate

    def __repr__(self) -> str:
        lines = []
        for index, group in enumerate(self.settings()):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        body = "\n".join(lines)
        return f"{type(self).__name__} (\n{body}\n)"

    # --- steps ----------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the parameters' gradients, or set them to zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if set_to_none:
                    parameter.grad = None
                else:
                    parameter.grad.detach_()
                    parameter.grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient, and run what is pending.

        Args:
            closure: computes the loss again, which is returned.

        Raises:
            TypeError: the optimizer was made without parameters.
        """
        if not self.param_groups:
            name = type(self).__name__
            raise TypeError(
                f"[{name}] was made without parameters; call av.update(optimizer, model, "
                "gradients), "
                f"or make it with {name}(model.parameters())"
            )
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                updates = [(p, p, p.grad) for p in group["params"] if p.grad is not None]
                self.apply(group, updates)
        if modes.replay is None:
            synchronize()
        return loss

    def apply(self, group: Group, updates: Iterable[tuple[Any, Tensor, Tensor]]) -> None:
        """Update (key, parameter, gradient) triples with one group's settings."""
        updates = list(updates)
        if not updates:
            return
        for key, parameter, _ in updates:
            if key not in self.state:
                self.state[key] = CountedDict(self._start(parameter, group))
        states = [self.state[key] for key, _, _ in updates]
        self._start_counts(states)
        parameters = [parameter for _, parameter, _ in updates]
        gradients = [x.detach() if x.requires_grad else x for _, _, x in updates]
        plan = None
        if not modes.eager and modes.body is None and self._count_together(states):
            plan = plan_for(self, self._take_step, group, parameters, gradients, states)
        if plan is None:
            self._part_counts(states)
            self._take_step(group, parameters, gradients, states)
        else:
            plan.run(group, parameters, gradients, states)

    def _take_step(
        self,
        group: Group,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
    ) -> None:
        """The step itself, written with ordinary operations."""
        for count in {id(s["step"]): s["step"] for s in states if "step" in s}.values():
            count.add_(1)
        try:
            for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
                given = -gradient if group.get("maximize") else gradient
                self._update(parameter, given, state, group)
        finally:
            self._shared.clear()

    def _start(self, parameter: Tensor, group: Group) -> State:
        """The state of a parameter before its first step."""
        return {}

    def _update(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        """Take a step with one parameter: write it and its state in place."""
        raise NotImplementedError

    def _start_counts(self, states: Sequence[State]) -> None:
        """Parameters that step together for the first time share one count."""
        new = [state for state in states if state.get("step", self) is None]
        if new:
            start = fresh(0, (), get_default_dtype())
            for state in new:
                state["step"] = start

    def _count_together(self, states: Sequence[State]) -> bool:
        """Whether every count belongs to none but these states."""
        if len(states) == len(self.state):
            return True
        counts = {id(state["step"]) for state in states if "step" in state}
        users = sum("step" in state for state in states)
        return users == sum(id(state.get("step")) in counts for state in self.state.values())

    def _part_counts(self, states: Sequence[State]) -> None:
        """Give counts of their own to states that shared one with others, left alone this time."""
        sharing: dict[int, list[State]] = {}
        for state in states:
            if "step" in state:
                sharing.setdefault(id(state["step"]), []).append(state)
        for users in sharing.values():
            count = users[0]["step"]
            if len(users) != sum(state.get("step") is count for state in self.state.values()):
                own = count.clone()
                for state in users:
                    state["step"] = own

    def shared(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once a step for all parameters that have the same `key`."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def scalar(self, number: Any, like: Tensor) -> Tensor:
        """A setting as a tensor of `like`'s dtype: one run-time argument for all parameters."""
        key = ("scalar", id(number) if isinstance(number, Tensor) else number, like.dtype)
        # the number is held too: its id stands for it
        held: tuple[Any, Tensor] = self.shared(
            key, lambda: (number, as_tensor(number, dtype=like.dtype))
        )
        return held[1]

    def decayed(self, parameter: Tensor, gradient: Tensor, weight_decay: float) -> Tensor:
        """The gradient plus weight_decay times the parameter."""
        if weight_decay == 0:
            return gradient
        return gradient + parameter * self.scalar(weight_decay, parameter)

    def move_towards(self, average: Tensor, value: Tensor, weight: float) -> Tensor:
        """average + weight * (value - average), into `average`, computed from the nearer end."""
        step = value - average
        if weight < 0.5:
            return average.assign_(average + step * self.scalar(weight, average))
        return average.assign_(value - step * self.scalar(1 - weight, average))

    def gather_squares(self, average: Tensor, value: Tensor, beta: float) -> Tensor:
        """beta * average + (1 - beta) * value**2, written into `average`."""
        kept = average * self.scalar(beta, average)
        return average.assign_(kept + value * self.scalar(1 - beta, average) * value)

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State and settings; parameters are numbered in order, or named by path."""
        numbers: dict[Any, int] = {}
        groups = []
        for group in self.settings():
            packed = {key: value for key, value in group.items() if key != "params"}
            if "params" in group:
                for parameter in group["params"]:
                    numbers.setdefault(id(parameter), len(numbers))
                packed["params"] = [numbers[id(p)] for p in group["params"]]
            groups.append(packed)
        state = {
            (key if isinstance(key, str) else numbers[id(key)]): dict(values)
            for key, values in self.state.items()
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` gave; tensors are copied.

        Raises:
            CheckpointError: groups or parameters do not match; nothing was changed.
        """
        name = type(self).__name__
        groups, own = state_dict["param_groups"], self.settings()
        if len(groups) != len(own):
            raise CheckpointError(
                f"[{name}] the state has {len(groups)} parameter groups, the optimizer {len(own)}"
            )
        sizes = [len(group.get("params", ())) for group in groups]
        expected = [len(group.get("params", ())) for group in own]
        if sizes != expected:
            raise CheckpointError(
                f"[{name}] the state's groups have {sizes} parameters, the optimizer's {expected}"
            )
        keys: dict[Any, Any] = {}
        for given, group in zip(groups, own, strict=True):
            keys.update(zip(given.get("params", ()), group.get("params", ()), strict=True))
        counts: dict[Any, Tensor] = {}
        state: dict[Any, State] = CountedDict()
        for key, values in state_dict["state"].items():
            target = keys.get(key, keys.get(_as_int(key), key))
            copied = {name: _copied(name, value, counts) for name, value in values.items()}
            state[target] = CountedDict(copied)
        for given, group in zip(groups, own, strict=True):
            group.update({key: value for key, value in given.items() if key != "params"})
        self.state = state


def _as_int(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdigit() else key


def _copied(name: str, value: Any, counts: dict[Any, Tensor]) -> Any:
    """A copy of a tensor of state; equal step counts become one again."""
    if not isinstance(value, Tensor):
        return value
    copied: Tensor = value.detach().clone()
    if name == "step":
        return counts.setdefault(copied.item(), copied)
    return copied


def like(parameter: Tensor) -> Tensor:
    """Zeros of a parameter's shape and dtype, to gather averages in."""
    return fresh(0, tuple(parameter.shape), parameter.dtype)


def fresh(number: float, shape: Shape, dtype: DType) -> Tensor:
    """State that is there at once, so that the first step is recorded like the others."""
    return Tensor._make(Value.from_numpy(encode(np.full(shape, number), dtype), dtype))


def check(name: str, **settings: float) -> None:
    """Raise ValueError if a setting is negative, or a beta not below 1."""
    for key, value in settings.items():
        if isinstance(value, Tensor):
            continue
        if key.startswith("beta"):
            if not 0.0 <= value < 1.0:
                raise ValueError(
                    f"[{name}] Invalid {key} parameter: {value}; expected 0 <= beta < 1"
                )
        elif not value >= 0.0:
            raise ValueError(f"[{name}] Invalid {key} value: {value}; expected at least 0")
