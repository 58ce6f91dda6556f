"""Module: a base class for layers and models, with PyTorch's registers, names and hooks.

Comes in: parameters, buffers and modules assigned to fields. Goes out: what can be asked of a model
(parameters by name, state, mode, a printed form). Guaranteed: names, order and state-dict keys are
PyTorch's; a state that does not fit is refused with the nearest names and changes nothing;
`_rebindings` grows with every assignment, so that "has anything changed?" is one comparison.
Nothing here is needed to be a model: any object with tensors in its fields is one.

Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html
"""

from __future__ import annotations

import difflib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from avalon import dtype as dtypes
from avalon.device import Device
from avalon.dtype import DType
from avalon.errors import DTypeError, ShapeError
from avalon.nn.locate import name_layer, name_of
from avalon.nn.parameter import Buffer, Parameter
from avalon.rebinding import CountedDict, Tally, rebindings
from avalon.state import IncompatibleKeys, copy_state
from avalon.struct import buffer as mark_buffer
from avalon.tensor import Tensor, no_grad
from avalon.tracing.modes import modes
from avalon.tracing.values import recorder

_handle_numbers = itertools.count()

registers = Tally()  # counts the changes of all registers
assignments = Tally()  # counts the assignments to fields of all modules, registers among them


class Register(CountedDict):
    """What a module holds under names: its parameters, buffers, modules or hooks."""

    def _count(self) -> None:
        registers.count += 1
        assignments.count += 1
        super()._count()


class RemovableHandle:
    """What registering a hook returns; `remove()` takes the hook away."""

    def __init__(self, hooks: dict[int, Any]) -> None:
        self.hooks = hooks
        self.id = next(_handle_numbers)

    def remove(self) -> None:
        """Take the hook away."""
        self.hooks.pop(self.id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class Module:
    """Base class of layers and models.

    >>> from avalon import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden = nn.Linear(2, 3)
    ...         self.out = nn.Linear(3, 1, bias=False)
    ...     def forward(self, x):
    ...         return self.out(self.hidden(x).relu())
    >>> Net()
    Net(
      (hidden): Linear(in_features=2, out_features=3, bias=True)
      (out): Linear(in_features=3, out_features=1, bias=False)
    )
    >>> [name for name, _ in Net().named_parameters()]
    ['hidden.weight', 'hidden.bias', 'out.weight']
    """

    __slots__ = ("__dict__", "__weakref__", "_rebindings")

    _rebindings: int
    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent_buffers_set: set[str]
    _forward_hooks: dict[int, Any]
    _forward_pre_hooks: dict[int, Any]

    def __init__(self) -> None:
        for name, value in (
            ("_rebindings", 0),
            ("training", True),
            ("_parameters", Register()),
            ("_buffers", Register()),
            ("_modules", Register()),
            ("_non_persistent_buffers_set", set()),
            ("_forward_hooks", Register()),
            ("_forward_pre_hooks", Register()),
        ):
            object.__setattr__(self, name, value)

    # --- calling --------------------------------------------------------------------------------

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the module computes; defined by every subclass."""
        raise NotImplementedError(
            f'[Module] {type(self).__name__} is missing the required "forward" function'
        )

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        try:
            if modes.layers:
                return self._call_named(inputs, named)
            if not self._forward_hooks and not self._forward_pre_hooks:
                return self.forward(*inputs, **named)
            return self._call_with_hooks(inputs, named)
        except (ShapeError, DTypeError) as error:
            name_layer(error, self)
            raise

    def _call_named(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call, and let what is recorded know the layer's name; the innermost layer counts."""
        here = recorder()
        recorded, start = here.recorded, len(here.recorded.lines)
        result = self._call_with_hooks(inputs, named)
        here.name(start if here.recorded is recorded else 0, name_of(self) or type(self).__name__)
        return result

    def _call_with_hooks(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        for hook, with_named in list(self._forward_pre_hooks.values()):
            if with_named:
                changed = hook(self, inputs, named)
                if changed is not None:
                    inputs, named = changed
            else:
                changed = hook(self, inputs)
                if changed is not None:
                    inputs = changed if isinstance(changed, tuple) else (changed,)
        result = self.forward(*inputs, **named)
        for hook, with_named in list(self._forward_hooks.values()):
            changed = (
                hook(self, inputs, named, result) if with_named else hook(self, inputs, result)
            )
            if changed is not None:
                result = changed
        return result

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, inputs) before forward; what it returns replaces the inputs."""
        return _register(self._forward_pre_hooks, (hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call hook(module, inputs, result) after forward; what it returns replaces the result."""
        return _register(self._forward_hooks, (hook, with_kwargs), prepend)

    # --- fields ---------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            if isinstance(value, (Parameter, Buffer, Module)):
                raise AttributeError(
                    f"[Module] cannot assign {name!r} before super().__init__() was called in "
                    f"{type(self).__name__}.__init__"
                )
            object.__setattr__(self, name, value)
            return
        _note_assignment(self)
        if isinstance(value, Parameter):
            self._forget(name, self._parameters)
            self._parameters[name] = value
        elif isinstance(value, Module):
            self._forget(name, self._modules)
            self._modules[name] = value
        elif isinstance(value, Buffer):
            self.register_buffer(name, value, value.persistent)
        elif name in self._parameters:
            if value is not None:
                raise TypeError(
                    f"[Module] cannot assign {type(value).__name__} as parameter {name!r}; "
                    "expected "
                    "nn.Parameter or None"
                )
            self._parameters[name] = None
        elif name in self._modules and value is None:
            self._modules[name] = None
        elif name in self._buffers and (value is None or isinstance(value, Tensor)):
            self._buffers[name] = value if value is None else mark_buffer(value)
        else:
            object.__setattr__(self, name, value)

    def _forget(self, name: str, but: dict[str, Any]) -> None:
        """Forget what has this name, but in one table, where what replaces it keeps its place."""
        self.__dict__.pop(name, None)
        for table in (self._parameters, self._buffers, self._modules):
            if table is not but:
                table.pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            found = fields.get(table)
            if found is not None and name in found:
                return found[name]
        near = difflib.get_close_matches(name, dir(self), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    def __delattr__(self, name: str) -> None:
        _note_assignment(self)
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        tables = (self._parameters, self._buffers, self._modules)
        return sorted({*object.__dir__(self), *(name for table in tables for name in table)})

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or None for one that this module does without."""
        _check_name(self, name, self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"[register_parameter] expected nn.Parameter or None for {name!r}, got "
                f"{type(param).__name__}"
            )
        _note_assignment(self)
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is no parameter; unless persistent, it is left out of the state."""
        _check_name(self, name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"[register_buffer] expected a Tensor or None for {name!r}, got "
                f"{type(tensor).__name__}"
            )
        _note_assignment(self)
        self._buffers[name] = None if tensor is None else mark_buffer(tensor)
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a module under a name that may not be a Python name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"[add_module] {type(module).__name__} is not an nn.Module")
        _check_name(self, name, self._modules)
        _note_assignment(self)
        self._modules[name] = module

    register_module = add_module

    # --- walking --------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly in this one, shared ones once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules directly in this one."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it by path, outermost first."""
        seen: set[Any] = set() if memo is None else memo
        waiting: list[tuple[str, Module]] = [(prefix, self)]
        while waiting:
            path, module = waiting.pop()
            if remove_duplicate:
                if module in seen:
                    continue
                seen.add(module)
            yield path, module
            waiting.extend(
                (f"{path}.{name}" if path else name, child)
                for name, child in reversed(list(module._modules.items()))
                if child is not None
            )

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def _named_members(
        self, table: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix) if recurse else iter([(prefix, self)])
        for path, module in modules:
            for name, member in getattr(module, table).items():
                if member is None or (remove_duplicate and id(member) in seen):
                    continue
                seen.add(id(member))
                yield (f"{path}.{name}" if path else name), member

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters by path, shared ones once."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, shared ones once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers by path, shared ones once."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers, shared ones once."""
        return (tensor for _, tensor in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at a path such as "encoder.0.linear"; "" is this module.

        Raises:
            AttributeError: there is none.
        """
        module = self
        for name in target.split(".") if target else []:
            found = module._modules.get(name)
            if found is None:
                raise AttributeError(
                    f"[get_submodule] {type(module).__name__} has no module {name!r}"
                )
            module = found
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a path such as "encoder.0.weight"."""
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path)._parameters.get(name)
        if found is None:
            raise AttributeError(f"[get_parameter] there is no parameter {target!r}")
        return found

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a path such as "norm.running_mean"."""
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path)._buffers.get(name)
        if found is None:
            raise AttributeError(f"[get_buffer] there is no buffer {target!r}")
        return found

    # --- state ----------------------------------------------------------------------------------

    def state_dict(
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name: aliases, which change as the module does."""
        found: dict[str, Tensor] = OrderedDict() if destination is None else destination
        waiting: list[tuple[str, Module]] = [(prefix, self)]
        while waiting:
            path, module = waiting.pop()
            hidden = module._non_persistent_buffers_set
            own = {**module._parameters, **module._buffers}
            for name, tensor in own.items():
                if tensor is not None and name not in hidden:
                    found[path + name] = tensor if keep_vars else tensor.detach()
            waiting.extend(
                (f"{path}{name}.", child)
                for name, child in reversed(list(module._modules.items()))
                if child is not None
            )
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy a state into this module's parameters and buffers.

        With `assign`, the given tensors take their places instead.

        Raises:
            CheckpointError: names (if strict) or shapes do not fit; nothing was copied.
        """
        own = self.state_dict(keep_vars=True)
        setter = self._assign if assign else None
        return copy_state(own, state_dict, type(self).__name__, strict, setter)

    def _assign(self, path: str, before: Tensor, given: Tensor) -> None:
        place, _, name = path.rpartition(".")
        module = self.get_submodule(place)
        if isinstance(before, Parameter) and not isinstance(given, Parameter):
            given = Parameter(given, before.requires_grad)
        setattr(module, name, given)

    # --- modes and conversions ------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Put this module and all below it into training mode, or evaluation mode if not mode."""
        for module in self.modules():
            if module.training is not mode:  # an assignment makes compiled steps look again
                module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all below it into evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let all parameters gather gradients, or stop them."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the parameters' gradients, or set them to zero."""
        for parameter in self.parameters():
            if parameter.grad is None:
                continue
            if set_to_none:
                parameter.grad = None
            else:
                parameter.grad.detach_()
                parameter.grad.zero_()

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call fn on every module below this one, then on this one."""
        for module in reversed(list(self.modules())):
            fn(module)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Replace the value of every parameter, its gradient and every buffer by fn of it."""
        with no_grad():
            for module in self.modules():
                _note_assignment(module)
                for parameter in module._parameters.values():
                    if parameter is not None:
                        gradient = parameter.grad
                        parameter.grad = None
                        parameter.data = fn(parameter.data)
                        if gradient is not None:
                            parameter.grad = fn(gradient)
                for name, tensor in module._buffers.items():
                    if tensor is not None:
                        module._buffers[name] = mark_buffer(fn(tensor))
        return self

    def to(self, *arguments: Any, **named: Any) -> Self:
        """Move to a device, or convert floats to a dtype: `to("cpu")`, `to(avalon.float64)`.

        Raises:
            TypeError: an argument is neither, nor a tensor whose dtype and device are meant.
        """
        dtype = named.get("dtype")
        device = named.get("device")
        for argument in arguments:
            if isinstance(argument, DType):
                dtype = argument
            elif isinstance(argument, Tensor):
                dtype, device = argument.dtype, argument.device
            elif isinstance(argument, (str, Device)):
                device = argument
            elif not isinstance(argument, bool) and argument is not None:  # a bool: non_blocking
                dtypes.checked(argument)
        if dtype is not None and not (
            dtypes.checked(dtype).is_floating_point or dtype.is_complex
        ):
            raise TypeError(f"[to] a module is converted to floating point dtypes, got {dtype!r}")

        def convert(tensor: Tensor) -> Tensor:
            wanted = dtype if tensor.dtype.is_floating_point else None
            result: Tensor = tensor.to(device=device, dtype=wanted)
            return result

        return self._apply(convert)

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self.to(device="cpu")

    def cuda(self, device: int | None = None) -> Self:
        """Move to a GPU."""
        return self.to(device="cuda" if device is None else f"cuda:{device}")

    def type(self, dst_type: DType) -> Self:
        """Convert all floats."""
        return self.to(dtype=dst_type)

    def float(self) -> Self:
        """Convert all floats to float32."""
        return self.to(dtype=dtypes.float32)

    def double(self) -> Self:
        """Convert all floats to float64."""
        return self.to(dtype=dtypes.float64)

    def half(self) -> Self:
        """Convert all floats to float16."""
        return self.to(dtype=dtypes.float16)

    def bfloat16(self) -> Self:
        """Convert all floats to bfloat16."""
        return self.to(dtype=dtypes.bfloat16)

    # --- printing -------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses when the module is printed."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        lines = self.extra_repr().split("\n") if self.extra_repr() else []
        parts = [
            f"({name}): " + repr(module).replace("\n", "\n  ")
            for name, module in self._modules.items()
        ]
        if not parts and len(lines) <= 1:
            return f"{self._get_name()}({''.join(lines)})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + parts) + "\n)"

    # --- copies ---------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "_rebindings", 0)
        self.__dict__.update(state)
        for name in _REGISTERS:  # plain dicts in what was saved long ago
            table = self.__dict__.get(name)
            if type(table) is dict:
                self.__dict__[name] = Register(table)


_REGISTERS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


def _note_assignment(module: Module) -> None:
    """Count an assignment, for replays that compare the module and for those that compare all."""
    object.__setattr__(module, "_rebindings", module._rebindings + 1)
    assignments.count += 1
    rebindings.count += 1


def _register(hooks: dict[int, Any], hook: Any, prepend: bool) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    if prepend:
        later = dict(hooks)
        hooks.clear()
        hooks[handle.id] = hook
        hooks.update(later)
    else:
        hooks[handle.id] = hook
    return handle


def _check_name(module: Module, name: str, table: Mapping[str, Any]) -> None:
    if "_parameters" not in module.__dict__:
        raise AttributeError(
            f"[Module] call super().__init__() in {type(module).__name__}.__init__ first"
        )
    if not isinstance(name, str) or not name or "." in name:
        raise KeyError(f"[Module] name {name!r} must be a non-empty string without '.'")
    if name not in table and hasattr(module, name):
        raise KeyError(f"[Module] attribute {name!r} already exists")
