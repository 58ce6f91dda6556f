"""A group's whole step as one entry: traced once, recorded again at every step.

Comes in: an optimizer, one of its groups, and the parameters with their gradients. Goes out: the
parameters and the state, written in place, as the optimizer's own formulas would write them.
Guaranteed: the learning rate is a run-time number, so schedules trace nothing again; another
setting, parameter or state does; a step that changes more than the content of tensors is never
traced, and runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

from avalon import dtype as dtypes
from avalon.errors import TraceError
from avalon.tensor import Tensor, wrap
from avalon.tensor.writes import replace
from avalon.tracing.operation import Operation
from avalon.tracing.recorded import user_place
from avalon.tracing.sketch import Sketch
from avalon.tracing.values import Recorder, Value, recorder, recording_into

Group = dict[str, Any]
State = dict[str, Any]
# the optimizer's formulas: settings, parameters, gradients, states
Step = Callable[[Group, Sequence[Tensor], Sequence[Tensor], Sequence[State]], None]

_FORBIDDEN = "[optimizer] a step that is being traced looks at a tensor's value"
_PLAIN = (bool, int, float, str, type(None))


class Plan:
    """One traced step of one group.

    Attributes:
        operation: from the rate, the parameters, the gradients and the state's tensors to those
            that change; None if the step cannot be traced.
        targets: which of parameters and state change, by place.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        group: Group,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
    ) -> None:
        self.name = f"{name} step"
        self._parameters = list(parameters)
        self._state = _listed(states)
        self._kinds = _kinds(parameters, gradients)
        self._settings = _settings(group)
        self.operation: Operation | None = None
        self.numbers: Sequence[Value] = ()
        self.targets: list[int] = []
        if _is_plain(group, parameters):
            try:
                self._trace(step, group, parameters, gradients, states)
            except TraceError:
                self.operation = None

    def fits(
        self,
        group: Group,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
    ) -> bool:
        """Whether the step was traced for these very tensors and settings."""
        state = _listed(states)
        return (
            len(parameters) == len(self._parameters)
            and len(state) == len(self._state)
            and all(map(is_, parameters, self._parameters))
            and all(map(is_, state, self._state))
            and self._kinds == _kinds(parameters, gradients)
            and self._settings == _settings(group)
        )

    def _trace(
        self,
        step: Step,
        group: Group,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
    ) -> None:
        own = Recorder()
        copies: dict[int, Tensor] = {}

        def stand_in(x: Tensor) -> Tensor:
            found = copies.get(id(x))
            if found is None:
                found = copies[id(x)] = Tensor._make(own.stand_in(x.shape, x.dtype))
                found._strides = x._strides
            return found

        rate = group["lr"]
        with recording_into(own, _FORBIDDEN):
            given_rate = stand_in(_rate(rate))
            given = [stand_in(parameter) for parameter in parameters]
            given_gradients = [stand_in(gradient) for gradient in gradients]
            given_states = [
                {
                    key: stand_in(value) if isinstance(value, Tensor) else value
                    for key, value in state.items()
                }
                for state in states
            ]
            before = [dict(state) for state in given_states]
            targets = [*given, *_tensors(given_states)]
            starts = [target._cell.value for target in targets]
            sources = [given_rate, *given, *given_gradients, *_tensors(given_states)]
            at = [source._cell.value for source in sources]
            step({**group, "lr": given_rate}, given, given_gradients, given_states)
        if not all(_same(one, other) for one, other in zip(before, given_states, strict=True)):
            return  # it makes state, which is not the same step as the next
        sketch = Sketch(self.name, own)
        self.targets = [
            place
            for place, (target, start) in enumerate(zip(targets, starts, strict=True))
            if target._cell.value is not start
        ]
        self.operation, self.numbers, _ = sketch.cut(
            self.name,
            [sketch.number_of(value) for value in at],
            [sketch.number_of(targets[place]._cell.value) for place in self.targets],
        )

    def run(
        self,
        group: Group,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
    ) -> None:
        """Take the step."""
        assert self.operation is not None
        here = recorder()
        targets = [*parameters, *_tensors(states)]
        operands = [
            _rate(group["lr"]).value(),
            *[parameter.value() for parameter in parameters],
            *[gradient.value() for gradient in gradients],
            *[target.value() for target in targets[len(parameters) :]],
            *self.numbers,
        ]
        made = here.put(self.operation, operands, user_place(), self.name)
        for place, value in zip(self.targets, made, strict=True):
            replace(targets[place], value)


def _rate(rate: Any) -> Tensor:
    """The learning rate as a tensor; a number is a run-time argument."""
    if isinstance(rate, Tensor):
        return rate
    return wrap(Value.from_number(float(rate), dtypes.float64), None)


def _tensors(states: Sequence[State]) -> list[Tensor]:
    """The tensors of the state, each once."""
    found = {
        id(value): value for state in states for value in state.values()
        if isinstance(value, Tensor)
    }  # fmt: skip
    return list(found.values())


def _listed(states: Sequence[State]) -> list[Any]:
    return [item for state in states for pair in state.items() for item in pair]


def _kinds(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Any]:
    return [(x.shape, x.dtype, x._strides) for x in parameters] + [
        (x.shape, x.dtype, x._strides) for x in gradients
    ]


def _settings(group: Group) -> Group:
    """The settings that are part of the trace: all but the rate, of which only the type is."""
    settings = {key: value for key, value in group.items() if key not in ("params", "lr")}
    rate = group["lr"]
    settings["lr"] = rate.dtype if isinstance(rate, Tensor) else float
    return settings


def _is_plain(group: Group, parameters: Sequence[Tensor]) -> bool:
    """Whether the settings are numbers that can be compared, and promotion treats the rate alike
    as a number and as a tensor of no axes.
    """
    settings = [value for key, value in group.items() if key not in ("params", "lr")]
    flat = [
        item for value in settings
        for item in (value if isinstance(value, (tuple, list)) else (value,))
    ]  # fmt: skip
    if not all(type(item) in _PLAIN for item in flat):
        return False
    rate = group["lr"]
    if not (type(rate) in (int, float) or (isinstance(rate, Tensor) and not rate.shape)):
        return False
    return all(x.shape and x.dtype.is_floating_point for x in parameters)


def _same(one: State, other: State) -> bool:
    """Whether two states hold the same things under the same names."""
    return list(one) == list(other) and all(map(is_, one.values(), other.values()))


_plans: WeakKeyDictionary[Any, dict[int, tuple[Group, Plan]]] = WeakKeyDictionary()


def plan_for(
    optimizer: Any,
    step: Step,
    group: Group,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[State],
) -> Plan | None:
    """The traced step of a group, or None if it runs as it is."""
    plans = _plans.setdefault(optimizer, {})
    _, plan = plans.get(id(group), (None, None))
    if plan is None or not plan.fits(group, parameters, gradients, states):
        if len(plans) > 2 * len(optimizer.settings()):
            plans.clear()  # of groups that are gone
        plan = Plan(type(optimizer).__name__, step, group, parameters, gradients, states)
        plans[id(group)] = (group, plan)
    return None if plan.operation is None else plan
