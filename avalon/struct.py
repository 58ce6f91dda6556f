"""Any object as a tree of tensors: its leaves by path, what of it is trained, and copies of it.

Comes in: a model, or any structure of plain objects, dataclasses, dicts, lists, tuples and tensors.
Goes out: leaves by path ("conv1.weight"), and structures of the same form. Guaranteed: the order is
that of the fields; an object that is met twice is entered once; nothing but tensors, containers and
plain objects is entered or copied. A `nn.Module` gives the paths of its state dict: the tables in
which it keeps its fields are no part of a path.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from avalon.rebinding import CountedDict
from avalon.tensor import Tensor

MODULE_TABLES = ("_parameters", "_buffers", "_modules")

_OPAQUE = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type,
    types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType,
)  # fmt: skip


_LEAVES = frozenset(_OPAQUE)


def buffer(tensor: Tensor) -> Tensor:
    """Mark a tensor as a field that is not trained, such as a running mean; returns it.

    >>> import avalon as av
    >>> class Scale:
    ...     def __init__(self):
    ...         self.factor = av.ones(1)
    ...         self.seen = av.buffer(av.zeros(1))
    >>> len(av.parameters(Scale()))
    1
    """
    tensor._is_buffer = True  # type: ignore[attr-defined]
    return tensor


def is_buffer(tensor: Tensor) -> bool:
    """True if `buffer` marked the tensor."""
    return getattr(tensor, "_is_buffer", False)


def children(node: Any) -> Mapping[Any, Any] | None:
    """The fields of an object or the items of a container by key; None for what is not entered."""
    fields = _fields(_meant(node))
    if fields is None or "_parameters" not in fields or _is_mapping(type(node)):
        return fields
    merged: dict[Any, Any] = {}
    for name in MODULE_TABLES:
        merged.update(fields[name])
    merged.update((name, child) for name, child in fields.items() if name not in MODULE_TABLES)
    return merged


def walk(struct: Any) -> Iterator[tuple[str, Any]]:
    """Every object, container and tensor of a structure with its path, outermost first."""
    pending: list[tuple[str, Any]] = [("", struct)]
    entered: set[int] = set()
    while pending:
        path, node = pending.pop()
        if isinstance(node, Tensor):
            yield path, node
            continue
        node = _meant(node)
        fields = children(node)
        if fields is None or id(node) in entered:
            continue
        entered.add(id(node))
        yield path, node
        for key in reversed(list(fields)):
            child = fields[key]
            if type(child) not in _LEAVES:  # most fields are numbers, flags and names
                pending.append((join(path, key), child))


def join(path: str, key: Any) -> str:
    """The path of the field `key` of what is at `path`."""
    return f"{path}.{key}" if path else str(key)


def leaves(struct: Any) -> dict[str, Tensor]:
    """Every tensor of a structure by its path; a shared one is there under each of its paths."""
    return {path: node for path, node in walk(struct) if isinstance(node, Tensor)}


def trained(struct: Any) -> dict[str, Tensor]:
    """The tensors of a structure that training changes, by path, shared ones once.

    These are the tensors with `requires_grad`. An object that holds neither such a tensor nor a
    `nn.Parameter` is trained in its floating fields, but for those marked by `buffer`. A tensor
    that is passed instead of a structure is trained itself.
    """
    if isinstance(struct, Tensor):
        return {"": struct} if struct.dtype.is_floating_point else {}
    found: dict[int, tuple[str, Tensor]] = {}
    for path, node in walk(struct):
        fields = children(node) or {}
        own = {key: child for key, child in fields.items() if isinstance(child, Tensor)}
        declared = hasattr(node, "_parameters") or any(
            child.requires_grad or type(child) is not Tensor for child in own.values()
        )
        for key, child in own.items():
            undeclared = child.dtype.is_floating_point and not declared and not is_buffer(child)
            if child.requires_grad or undeclared:
                found.setdefault(id(child), (join(path, key), child))
    return dict(found.values())


def map_leaves(function: Callable[[Tensor], Any], struct: Any) -> Any:
    """A structure of the same form with `function(tensor)` in place of each tensor.

    Objects are copied without calling their constructors; everything that is neither a tensor nor
    entered stays as it is.
    """
    return _mapped(function, struct, {})


def _mapped(function: Callable[[Tensor], Any], node: Any, copies: dict[int, Any]) -> Any:
    """`map_leaves` of one node. It is no function inside that one: by its own name such a function
    would hold itself, and with it the copies, until garbage is collected, whenever that is.
    """
    if isinstance(node, Tensor):
        return function(node)
    node = _meant(node)
    fields = _fields(node)
    if fields is None:
        return node
    if id(node) in copies:
        return copies[id(node)]
    if isinstance(node, tuple):
        parts = [_mapped(function, child, copies) for child in node]
        made = type(node)._make(parts) if hasattr(node, "_make") else type(node)(parts)
        copies[id(node)] = made
        return made
    if isinstance(node, list):
        copies[id(node)] = made = []
        made.extend(_mapped(function, child, copies) for child in node)
        return made
    if isinstance(node, Mapping):
        copies[id(node)] = made = type(node)() if isinstance(node, CountedDict) else {}
        made.update((key, _mapped(function, child, copies)) for key, child in node.items())
        return made
    copies[id(node)] = made = object.__new__(type(node))
    for key, child in fields.items():
        object.__setattr__(made, key, _mapped(function, child, copies))
    return made


def _fields(node: Any) -> Mapping[Any, Any] | None:
    if isinstance(node, (Tensor, *_OPAQUE)):
        return None
    if _is_mapping(type(node)):
        return node
    if isinstance(node, (list, tuple)):
        return dict(enumerate(node))
    if not _is_plain(type(node)):
        return None
    fields = {name: getattr(node, name) for name in _slots(type(node)) if hasattr(node, name)}
    fields.update(getattr(node, "__dict__", {}))
    return fields


def _meant(node: Any) -> Any:
    """What an object stands for: a compiled model for the model. Others are meant themselves."""
    kind = type(node)
    if kind not in _stands_in:
        _stands_in[kind] = getattr(kind, "stands_for_wrapped", False) is True
    return node.__wrapped__ if _stands_in[kind] else node


# What is found once of each class.
_stands_in: dict[type, bool] = {}
_mappings: dict[type, bool] = {}
_slot_names: dict[type, tuple[str, ...]] = {}
_plain: dict[type, bool] = {}


def _is_mapping(kind: type) -> bool:
    """What `isinstance` says of the objects of a class, which takes long to find out."""
    if kind not in _mappings:
        _mappings[kind] = issubclass(kind, Mapping)
    return _mappings[kind]


def _slots(kind: type) -> tuple[str, ...]:
    """The names of the slots that a class and those that it is made from have."""
    if kind not in _slot_names:
        found: list[str] = []
        for one in reversed(kind.__mro__):
            slots = one.__dict__.get("__slots__", ())
            found += (slots,) if isinstance(slots, str) else slots
        _slot_names[kind] = tuple([name for name in found if not name.startswith("__")])
    return _slot_names[kind]


def _is_plain(kind: type) -> bool:
    """True for classes written in Python, whose instances are nothing but their fields."""
    if kind not in _plain:
        _plain[kind] = True
        if not hasattr(kind, "__del__"):  # an instance without fields may not be able to die
            try:
                object.__new__(kind)
            except TypeError:  # a set, an array, a file: only its own constructor can make one
                _plain[kind] = False
    return _plain[kind]
