"""Recurrent layers: RNN, LSTM, GRU and their cells.

Comes in: sequences (time, batch, features), or (batch, time, features) with `batch_first`, or
without a batch. Goes out: the outputs of the last layer at every time, and the last states.
Guaranteed: PyTorch's gates (sigmoid for gates, tanh for candidates), weights, names and initial
distribution; the inputs of all times are projected by one product; time is a loop whose body is
recorded once and compiled once, whatever the length.

Source: https://docs.pytorch.org/docs/stable/nn.html#recurrent-layers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from avalon.dtype import DType
from avalon.errors import ShapeError
from avalon.functions import cat, chunk, dropout, empty, linear, relu, sigmoid, stack, tanh, zeros
from avalon.functions.loops import Traced, run_scan, trace_body
from avalon.graph.body import Body
from avalon.nn import init
from avalon.nn.module import Module
from avalon.nn.parameter import Parameter
from avalon.tensor import Tensor

State = tuple[Tensor, ...]
# (projected input, projected state, state) -> new state, whose first part is the output
Step = Callable[[Tensor, Tensor, State], State]


def _rnn_step(activation: Callable[[Any], Tensor]) -> Step:
    def step(x: Tensor, h: Tensor, state: State) -> State:
        return (activation(x + h),)

    return step


def _lstm_step(x: Tensor, h: Tensor, state: State) -> State:
    enter, forget, candidate, leave = chunk(x + h, 4, -1)
    memory = sigmoid(forget) * state[1] + sigmoid(enter) * tanh(candidate)
    return sigmoid(leave) * tanh(memory), memory


def _gru_step(x: Tensor, h: Tensor, state: State) -> State:
    x_reset, x_update, x_new = chunk(x, 3, -1)
    h_reset, h_update, h_new = chunk(h, 3, -1)
    reset, update = sigmoid(x_reset + h_reset), sigmoid(x_update + h_update)
    fresh = tanh(x_new + reset * h_new)
    return ((state[0] - fresh) * update + fresh,)


_STEPS: dict[str, Step] = {
    "tanh": _rnn_step(tanh),
    "relu": _rnn_step(relu),
    "lstm": _lstm_step,
    "gru": _gru_step,
}
_bodies: dict[Any, Body] = {}


def _body(kind: str, state: State, x: Tensor, rest: Sequence[Tensor | None]) -> Body:
    """One step in time, recorded once for all layers of these shapes: the state, the projected
    input, the weights of the state, its bias and its projection if it has them.
    """
    kinds = [(one.shape, one.dtype) for one in state]
    kinds.append((x.shape[1:], x.dtype))
    kinds += [(one.shape, one.dtype) for one in rest if one is not None]
    present = tuple(one is not None for one in rest)
    key = kind, present, tuple(kinds)
    found = _bodies.get(key)
    if found is None:
        count = len(state)

        def step(*given: Tensor) -> Sequence[Tensor]:
            now, x, others = given[:count], given[count], iter(given[count + 1 :])
            weight = next(others)
            bias, projection = (next(others) if there else None for there in present[1:])
            following = _STEPS[kind](x, linear(now[0], weight, bias), now)
            if projection is not None:
                following = linear(following[0], projection), *following[1:]
            return [*following, following[0]]

        found = _bodies[key] = trace_body(kind, kinds, step).body
    return found


_GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}
_STATES = {"tanh": 1, "relu": 1, "lstm": 2, "gru": 1}


class _Cell(Module):
    kind: str
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = _GATES[self.kind] * hidden_size
        self.weight_ih = Parameter(empty(rows, input_size, dtype=dtype))
        self.weight_hh = Parameter(empty(rows, hidden_size, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, uniform in +-1 / sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _next(self, input: Tensor, state: State | None) -> State:
        if input.ndim not in (1, 2):
            raise ShapeError(
                f"[{type(self).__name__}] expected (batch, features) or (features,), got shape "
                f"{tuple(input.shape)}"
            )
        if state is None:
            start = zeros((*input.shape[:-1], self.hidden_size), dtype=input.dtype)
            state = (start,) * _STATES[self.kind]
        x = linear(input, self.weight_ih, self.bias_ih)
        return _STEPS[self.kind](x, linear(state[0], self.weight_hh, self.bias_hh), state)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        return text if self.bias else f"{text}, bias={self.bias}"


class RNNCell(_Cell):
    """h' = tanh (or relu) of W_ih x + b_ih + W_hh h + b_hh."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"[RNNCell] nonlinearity must be tanh or relu, got {nonlinearity!r}")
        self.kind = nonlinearity
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = self.kind = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._next(input, None if hx is None else (hx,))[0]

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.kind == "tanh" else f"{text}, nonlinearity={self.kind}"


class LSTMCell(_Cell):
    """One step of an LSTM: (input, (h, c)) to (h', c')."""

    kind = "lstm"

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> State:
        return self._next(input, None if hx is None else tuple(hx))


class GRUCell(_Cell):
    """One step of a GRU: (input, h) to h'."""

    kind = "gru"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._next(input, None if hx is None else (hx,))[0]


class _Recurrent(Module):
    kind: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: DType | None = None,
        *,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= proj_size < hidden_size or (proj_size and self.kind != "lstm"):
            raise ValueError(
                f"[{type(self).__name__}] proj_size is for LSTM only, and must be smaller than "
                f"hidden_size {hidden_size}; got {proj_size}"
            )
        if hidden_size <= 0 or num_layers <= 0:
            raise ValueError(
                f"[{type(self).__name__}] hidden_size {hidden_size} and num_layers {num_layers} "
                "must "
                "be greater than zero"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        rows = _GATES[self.kind] * hidden_size
        for layer in range(num_layers):
            given_out = proj_size or hidden_size
            width = input_size if layer == 0 else given_out * (2 if bidirectional else 1)
            for end in self._ends():
                suffix = f"_l{layer}{end}"
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, width),
                    "weight_hh": (rows, given_out),
                }
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes |= {"weight_hr": (proj_size, hidden_size)}
                for name, shape in shapes.items():
                    setattr(self, name + suffix, Parameter(empty(shape, dtype=dtype)))
        self.reset_parameters()

    def _ends(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def reset_parameters(self) -> None:
        """Draw new initial values, uniform in +-1 / sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing: PyTorch's GPU layout has no counterpart."""

    def _check(self, input: Tensor, states: State | None) -> State:
        """The states of all layers, (layers * directions, batch, hidden) each."""
        name = type(self).__name__
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"[{name}] input of shape {tuple(input.shape)} must have 3 axes, or 2 without a "
                "batch, "
                f"the last of size input_size {self.input_size}"
            )
        batch = () if input.ndim == 2 else (input.shape[0 if self.batch_first else 1],)
        front = (self.num_layers * len(self._ends()), *batch)
        shapes = [(*front, self.hidden_size)] * _STATES[self.kind]
        shapes[0] = (*front, self.proj_size or self.hidden_size)
        if states is None:
            return tuple(zeros(shape, dtype=input.dtype) for shape in shapes)
        for state, shape in zip(states, shapes, strict=True):
            if tuple(state.shape) != shape:
                raise ShapeError(
                    f"[{name}] state of shape {tuple(state.shape)} must have shape {shape}"
                )
        return states

    def _direction(self, x: Tensor, suffix: str, state: State, reverse: bool) -> tuple[Any, State]:
        """Outputs at every time in one direction of one layer, and the last state."""
        bias = getattr(self, f"bias_ih{suffix}", None) if self.bias else None
        state_bias = getattr(self, f"bias_hh{suffix}", None) if self.bias else None
        if bias is not None and state_bias is not None and self.kind != "gru":
            bias, state_bias = bias + state_bias, None  # both are added to the same sum
        projected = linear(x, getattr(self, f"weight_ih{suffix}"), bias)
        rest = [getattr(self, f"weight_hh{suffix}"), state_bias]
        rest.append(getattr(self, f"weight_hr{suffix}") if self.proj_size else None)
        given = [one for one in rest if one is not None]
        body = _body(self.kind, state, projected, rest)
        *last, outputs = run_scan(Traced(body, given), state, [projected], x.shape[0], reverse)
        return outputs, tuple(last)

    def _run(self, input: Tensor, states: State | None) -> tuple[Tensor, State]:
        states = self._check(input, states)
        swap = self.batch_first and input.ndim == 3
        x = input.transpose(0, 1) if swap else input
        last: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = dropout(x, self.dropout, self.training)
            ends: list[Tensor] = []
            for end in self._ends():
                place = layer * len(self._ends()) + len(ends)
                start = tuple(state[place] for state in states)
                found, state = self._direction(x, f"_l{layer}{end}", start, end == "_reverse")
                ends.append(found)
                last.append(state)
            x = ends[0] if len(ends) == 1 else cat(ends, -1)
        final = tuple(stack(list(parts)) for parts in zip(*last, strict=True))
        return (x.transpose(0, 1) if swap else x), final

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, default in (
            ("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False),
            ("dropout", 0.0), ("bidirectional", False),
        ):  # fmt: skip
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


class RNN(_Recurrent):
    """Layers of h' = tanh (or relu) of W_ih x + b_ih + W_hh h + b_hh.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.RNN.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *arguments: Any,
        **options: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"[RNN] nonlinearity must be tanh or relu, got {nonlinearity!r}")
        object.__setattr__(self, "kind", nonlinearity)
        super().__init__(input_size, hidden_size, num_layers, *arguments, **options)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, states = self._run(input, None if hx is None else (hx,))
        return y, states[0]


class LSTM(_Recurrent):
    """Layers of long short-term memory: input, (h, c) to output, (h, c).

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html

    >>> import avalon as av
    >>> y, (h, c) = av.nn.LSTM(3, 4, num_layers=2)(av.ones(5, 2, 3))
    >>> y.shape, h.shape
    ((5, 2, 4), (2, 2, 4))
    """

    kind = "lstm"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, State]:
        return self._run(input, None if hx is None else tuple(hx))


class GRU(_Recurrent):
    """Layers of gated recurrent units: input, h to output, h.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html
    """

    kind = "gru"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, states = self._run(input, None if hx is None else (hx,))
        return y, states[0]
