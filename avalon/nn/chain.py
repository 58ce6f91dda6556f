"""Layers in a row, called as one: what a row of them computes is recorded as one entry.

Comes in: the modules of an `nn.Sequential`. Goes out: the parts in which it is called: modules, and
`Chain`s of layers of the library's own that only compute something from their input and their
parameters. Guaranteed: values, bits, gradients and errors are those of calling one layer after the
other; a layer that was replaced, changed, given a hook or another `forward` is called as it is from
then on; where somebody wants to see layers apart (`debug_nans`, `profile`), they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from avalon.dtype import DType
from avalon.nn import activation, convolution, linear, normalization, padding, pooling, resize
from avalon.nn.module import Module, assignments, registers
from avalon.nn.parameter import Parameter
from avalon.rebinding import rebindings
from avalon.tensor import Tensor
from avalon.tensor.composite import Composite, is_tracing
from avalon.tensor.creation import get_default_dtype
from avalon.tracing.history import History
from avalon.tracing.modes import modes
from avalon.tracing.values import recorder

_CAPACITY = 1_000  # rows of layers whose traces are remembered
_PLAIN = (bool, int, float, str, DType, type(None))

# What moves its input only may be a view of it, which the last layer of a chain must not be.
_MOVING = {linear.Flatten, linear.Identity, linear.Unflatten}

# Exactly these classes: a subclass may do anything.
_KINDS: set[type[Module]] = {
    linear.Linear, convolution.Conv1d, convolution.Conv2d, convolution.Conv3d,
    convolution.ConvTranspose1d, convolution.ConvTranspose2d, convolution.ConvTranspose3d,
    normalization.LayerNorm, normalization.RMSNorm, normalization.GroupNorm,
    normalization.LocalResponseNorm, pooling.MaxPool1d, pooling.MaxPool2d, pooling.MaxPool3d,
    pooling.AvgPool1d, pooling.AvgPool2d, pooling.AvgPool3d, pooling.AdaptiveAvgPool1d,
    pooling.AdaptiveAvgPool2d, pooling.AdaptiveAvgPool3d, padding.ZeroPad1d, padding.ZeroPad2d,
    padding.ConstantPad1d, padding.ConstantPad2d, padding.ReflectionPad1d, padding.ReflectionPad2d,
    padding.ReplicationPad1d, padding.ReplicationPad2d, resize.PixelShuffle, resize.PixelUnshuffle,
    activation.PReLU, activation.ReLU, activation.ReLU6, activation.Hardtanh, activation.LeakyReLU,
    activation.ELU, activation.SELU, activation.CELU, activation.GELU, activation.SiLU,
    activation.Mish, activation.Sigmoid, activation.LogSigmoid, activation.Tanh,
    activation.Softplus, activation.Softsign, activation.Tanhshrink, activation.Softshrink,
    activation.Hardshrink, activation.Hardsigmoid, activation.Hardswish, activation.Threshold,
    activation.GLU, activation.Softmax, activation.LogSoftmax, activation.Softmin, *_MOVING,
}  # fmt: skip
_PURE = {kind: kind.forward for kind in _KINDS}


class Plan:
    """The parts in which a row of modules is called, until something about them changes."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self._assignments = self._registers = self._rebindings = -1

    def make(self, row: Module, kind: type[Module]) -> None:
        """Look at a row; `kind` is the class of rows whose members are called in their place."""
        members, inner = _flattened(row, kind)
        self.parts = []
        waiting: list[_Layer] = []
        for member in [*members, None]:
            layer = None if member is None else _described(member)
            if layer is not None:
                waiting.append(layer)
                continue
            self.parts += _chained(waiting)
            waiting = []
            if member is not None:
                self.parts.append(member)
        self._assignments, self._registers = assignments.count, registers.count
        # Not the row itself, which would live until garbage is collected.
        self._rebindings = row._rebindings
        self._modules = [*inner, *[m for m in members if type(m) in _PURE]]
        self._rebindings_of_each = [module._rebindings for module in self._modules]
        self._kinds = [(kind, _PURE[kind]) for kind in {type(m) for m in members} if kind in _PURE]

    def holds(self, row: Module) -> bool:
        """Whether it is still true of the row that it was made for."""
        if assignments.count != self._assignments:  # to whatever module
            if registers.count != self._registers or row._rebindings != self._rebindings:
                return False
            if [module._rebindings for module in self._modules] != self._rebindings_of_each:
                return False
            self._assignments = assignments.count
        for kind, forward in self._kinds:  # noqa: SIM110, a generator takes as long as the rest
            if kind.forward is not forward:
                return False
        return True


class _Layer(NamedTuple):
    """A layer, and all of it but its parameters' values."""

    module: Module
    structure: tuple[Any, ...]
    parameters: dict[str, Parameter]


def _flattened(row: Module, kind: type[Module]) -> tuple[list[Module], list[Module]]:
    """The modules that a row calls, those of rows of the same kind in it in their place; and
    these rows.
    """
    members: list[Module] = []
    inner: list[Module] = []
    waiting = [*reversed(row._modules.values())]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        if type(module) is kind and not _is_touched(module):
            inner.append(module)
            waiting += reversed(module._modules.values())
        else:
            members.append(module)
    return members, inner


def _is_touched(module: Module) -> bool:
    """Whether calling a module may be more than its class's `forward`."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


_OWN = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_forward_hooks",
        "_forward_pre_hooks", "training"}  # fmt: skip


def _described(module: Module) -> _Layer | None:
    """A layer that may be part of a chain; None for every other module."""
    kind = type(module)
    fields = vars(module)
    if kind not in _PURE or kind.forward is not _PURE[kind] or _is_touched(module):
        return None
    if module._buffers or module._modules or fields.get("inplace") or fields.get("return_indices"):
        return None
    own = {name: value for name, value in fields.items() if name not in _OWN}
    if not all(_is_plain(value) for value in own.values()):
        return None
    given = {name: one for name, one in module._parameters.items() if one is not None}
    described = tuple([(name, type(value), repr(value)) for name, value in own.items()])
    return _Layer(module, (kind, tuple(module._parameters), tuple(given), described), given)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(part) for part in value)
    return isinstance(value, _PLAIN)


def _chained(layers: Sequence[_Layer]) -> list[Any]:
    """The parts in which layers that may be chained are called."""
    count = len(layers)
    while count and type(layers[count - 1].module) in _MOVING:
        count -= 1
    parameters = [one for layer in layers[:count] for one in layer.parameters.values()]
    modules = [layer.module for layer in layers]
    if count < 2 or len({id(one) for one in parameters}) < len(parameters):
        return modules  # a shared parameter's cotangents are added in the order of the layers
    return [Chain(layers[:count]), *modules[count:]]


class _Parameters(NamedTuple):
    """What a chain's parameters are, but for their values, until one is rebound."""

    seen: int
    grad: bool
    edges: list[History | None]
    kinds: tuple[Any, ...]
    ends: bool  # cotangents get lost in one of them

    @staticmethod
    def of(parameters: Sequence[Parameter]) -> _Parameters:
        """The parameters as they are now."""
        edges = [one._edge() if modes.grad else None for one in parameters]
        kinds = tuple([
            (one.shape, one.dtype, one._strides, edge is not None)
            for one, edge in zip(parameters, edges, strict=True)
        ])
        ends = any(edge is not None and edge.ends for edge in edges)
        return _Parameters(rebindings.count, modes.grad, edges, kinds, ends)


class Chain:
    """Layers that are called one after the other."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self._modules = [layer.module for layer in layers]
        self._parameters = [one for layer in layers for one in layer.parameters.values()]
        self._composite = _composite_of(layers)
        self._known = _Parameters(-1, False, [], (), False)

    def __call__(self, input: Any) -> Any:
        if isinstance(input, Tensor) and not (modes.layers or modes.eager or is_tracing()):
            known, grad = self._known, modes.grad
            if known.seen != rebindings.count or known.grad is not grad:
                known = self._known = _Parameters.of(self._parameters)
            edge = input._edge() if grad else None
            if not known.ends and (edge is None or not edge.ends):
                key = (
                    get_default_dtype(), input.shape, input.dtype, input._strides,
                    edge is not None, known.kinds,
                )  # fmt: skip
                trace = self._composite.traces.get(key)
                if trace is None:
                    trace = self._trace(key, input, [edge, *known.edges])
                if trace is not None:
                    return trace.record([input, *self._parameters], [edge, *known.edges])
        for module in self._modules:
            input = module(input)
        return input

    def _trace(self, key: Any, input: Tensor, edges: Sequence[History | None]) -> Any:
        """The trace of a call of a kind that was not met before; None if it cannot be traced, or
        fails: then the layers, called one by one, say why.
        """
        try:
            return self._composite.trace(key, [input, *self._parameters], {}, edges)
        except Exception:
            return None


_composites: dict[Any, Composite] = {}


def _composite_of(layers: Sequence[_Layer]) -> Composite:
    """The function that layers like these compute, of their input and their parameters."""
    key = tuple([layer.structure for layer in layers])
    found = _composites.get(key)
    if found is None:
        if len(_composites) >= _CAPACITY:
            _composites.clear()
        # without parameters, which it would keep alive
        bare = [(_with(layer.module, {}), list(layer.parameters)) for layer in layers]
        last = layers[-1].module
        name = getattr(last, "function", type(last).__name__.lower())

        def row(input: Tensor, *parameters: Tensor) -> Tensor:
            here, left = recorder(), iter(parameters)
            for layer, names in bare:
                start = len(here.recorded.lines)
                given = dict(zip(names, left, strict=False))
                input = _with(layer, given).forward(input)
                here.name(start, type(layer).__name__)
            return input

        found = _composites[key] = Composite(name, row)
    return found


def _with(layer: Module, parameters: dict[str, Any]) -> Module:
    """A copy of a layer with other parameters."""
    copy: Module = object.__new__(type(layer))
    copy.__setstate__(vars(layer))
    own: dict[str, Any] = dict.fromkeys(layer._parameters)
    vars(copy)["_parameters"] = own | parameters
    return copy
