"""Activation functions as layers.

Source: https://docs.pytorch.org/docs/stable/nn.html#non-linear-activations-weighted-sum-nonlinearity
"""

from __future__ import annotations

from typing import Any

from avalon import functions
from avalon.dtype import DType
from avalon.functions import full
from avalon.nn.module import Module
from avalon.nn.parameter import Parameter
from avalon.tensor import Tensor


class _Activation(Module):
    """A layer that applies a function with its own fields as arguments."""

    function: str
    fields: tuple[tuple[str, Any], ...] = ()

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__()
        names = [name for name, _ in self.fields]
        if len(values) > len(names):
            raise TypeError(
                f"[{type(self).__name__}] takes at most {len(names)} arguments: {names}"
            )
        given = {**dict(zip(names, values, strict=False)), **named}
        for name in given:
            if name not in names:
                raise TypeError(f"[{type(self).__name__}] has no argument {name!r}; it has {names}")
        for name, default in self.fields:
            setattr(self, name, given.get(name, default))

    def forward(self, input: Tensor) -> Tensor:
        arguments = {name: getattr(self, name) for name, _ in self.fields}
        result: Tensor = getattr(functions, self.function)(input, **arguments)
        return result

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={getattr(self, name)}"
            for name, _ in self.fields
            if name != "inplace" or self.inplace
        )


_IN_PLACE = ("inplace", False)


class ReLU(_Activation):
    """max(x, 0)."""

    function, fields = "relu", (_IN_PLACE,)


class ReLU6(_Activation):
    """min(max(x, 0), 6)."""

    function, fields = "relu6", (_IN_PLACE,)


class Hardtanh(_Activation):
    """x limited to [min_val, max_val]."""

    function, fields = "hardtanh", (("min_val", -1.0), ("max_val", 1.0), _IN_PLACE)


class LeakyReLU(_Activation):
    """x where positive, else negative_slope * x."""

    function, fields = "leaky_relu", (("negative_slope", 0.01), _IN_PLACE)


class RReLU(_Activation):
    """Leaky relu with the mean slope of [lower, upper]."""

    function, fields = "rrelu", (("lower", 1.0 / 8), ("upper", 1.0 / 3), _IN_PLACE)


class ELU(_Activation):
    """x where positive, else alpha * (exp(x) - 1)."""

    function, fields = "elu", (("alpha", 1.0), _IN_PLACE)


class SELU(_Activation):
    """The self-normalizing elu."""

    function, fields = "selu", (_IN_PLACE,)


class CELU(_Activation):
    """x where positive, else alpha * (exp(x / alpha) - 1)."""

    function, fields = "celu", (("alpha", 1.0), _IN_PLACE)


class GELU(_Activation):
    """x * Phi(x)."""

    function, fields = "gelu", (("approximate", "none"),)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(_Activation):
    """x * sigmoid(x)."""

    function, fields = "silu", (_IN_PLACE,)


class Mish(_Activation):
    """x * tanh(softplus(x))."""

    function, fields = "mish", (_IN_PLACE,)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    function = "sigmoid"


class LogSigmoid(_Activation):
    """log(sigmoid(x))."""

    function = "logsigmoid"


class Tanh(_Activation):
    """Hyperbolic tangent."""

    function = "tanh"


class Softplus(_Activation):
    """log(1 + exp(beta * x)) / beta."""

    function, fields = "softplus", (("beta", 1.0), ("threshold", 20.0))


class Softsign(_Activation):
    """x / (1 + |x|)."""

    function = "softsign"


class Tanhshrink(_Activation):
    """x - tanh(x)."""

    function = "tanhshrink"


class Softshrink(_Activation):
    """x moved towards 0 by lambd."""

    function, fields = "softshrink", (("lambd", 0.5),)


class Hardshrink(_Activation):
    """x where |x| > lambd, else 0."""

    function, fields = "hardshrink", (("lambd", 0.5),)


class Hardsigmoid(_Activation):
    """relu6(x + 3) / 6."""

    function, fields = "hardsigmoid", (_IN_PLACE,)


class Hardswish(_Activation):
    """x * relu6(x + 3) / 6."""

    function, fields = "hardswish", (_IN_PLACE,)


class Threshold(_Activation):
    """x where it exceeds threshold, else value."""

    function, fields = "threshold", (("threshold", None), ("value", None), _IN_PLACE)


class GLU(_Activation):
    """First half of an axis times the sigmoid of the second."""

    function, fields = "glu", (("dim", -1),)


class Softmax(_Activation):
    """exp(x) / sum(exp(x)) along dim."""

    function, fields = "softmax", (("dim", None),)


class LogSoftmax(_Activation):
    """log(softmax(x)) along dim."""

    function, fields = "log_softmax", (("dim", None),)


class Softmin(_Activation):
    """softmax(-x) along dim."""

    function, fields = "softmin", (("dim", None),)


class Softmax2d(_Activation):
    """softmax over the channels of (N, C, H, W)."""

    function = "softmax2d"


class PReLU(Module):
    """x where positive, else weight * x, with one learned weight or one per channel."""

    weight: Parameter

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(full((num_parameters,), float(init), dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        return functions.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
