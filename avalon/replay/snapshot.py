"""What a compiled step can see: every object reachable from its arguments, closure and globals.

Comes in: a function and the arguments of one call. Goes out: a `Snapshot`, which can say whether
anything that Python code could branch on has changed since (`refresh`), what a recording changed
(`changes`), and which tensors are reachable (`tensors`); `restore` undoes what was changed.
Guaranteed: a change is never missed. Containers are compared child by child, by identity first and
by value where identity differs; NumPy arrays by content. Tensors are compared by the caller, for a
tensor's value may change freely while its kind may not.
"""

from __future__ import annotations

import dis
import functools
import inspect
import operator
import sysconfig
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from avalon.random import Generator
from avalon.struct import MODULE_TABLES
from avalon.tensor.core import Tensor

_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, range, slice, Enum,
    type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, type(Ellipsis),
)  # fmt: skip
MISSING = object()
_LIBRARY_PATHS = tuple(
    path
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(key))
)


class Changed(Exception):
    """Something reachable is no longer what it was; `path` says what."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


@dataclass(frozen=True)
class Change:
    """A child that a recording replaced: where it is, what it was and what it is now."""

    path: str
    entry: Entry
    key: Any
    before: Any
    after: Any

    def set(self, value: Any) -> None:
        """Put `value` where the change happened."""
        self.entry.kind.set(self.entry.container, self.key, value)
        self.entry.rebindings = -1


class Container:
    """How one kind of object is read and written. `read` gives keys and children."""

    template = "{path}[{key!r}]"

    @staticmethod
    def children(container: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    @staticmethod
    def keys(container: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    @staticmethod
    def set(container: Any, key: Any, value: Any) -> None:
        container[key] = value

    @staticmethod
    def restore(container: Any, keys: tuple[Any, ...], children: tuple[Any, ...]) -> None:
        """Make the container hold exactly `children` under `keys` again."""


class _Dictionary(Container):
    @staticmethod
    def children(container: Any) -> tuple[Any, ...]:
        return tuple(container.values())

    @staticmethod
    def keys(container: Any) -> tuple[Any, ...]:
        return tuple(container)

    @staticmethod
    def restore(container: Any, keys: tuple[Any, ...], children: tuple[Any, ...]) -> None:
        container.clear()
        container.update(zip(keys, children, strict=True))


class _Fields(_Dictionary):
    """The fields of an object; its container is the object's own dictionary."""

    template = "{path}.{key}"


class _Sequence(Container):
    template = "{path}[{key}]"

    @staticmethod
    def children(container: Any) -> tuple[Any, ...]:
        return tuple(container)

    @staticmethod
    def keys(container: Any) -> tuple[Any, ...]:
        return tuple(range(len(container)))

    @staticmethod
    def restore(container: Any, keys: tuple[Any, ...], children: tuple[Any, ...]) -> None:
        if isinstance(container, list):
            container[:] = children


class _Slots(Container):
    """The fields of an object whose class names them in `__slots__`."""

    template = "{path}.{key}"

    @staticmethod
    def names(container: Any) -> tuple[str, ...]:
        found: list[str] = []
        for base in type(container).__mro__:
            slots = base.__dict__.get("__slots__", ())
            found += [slots] if isinstance(slots, str) else slots
        # A module's count of assignments is not state: what was assigned is compared itself.
        return tuple(name for name in found if not name.startswith("__") and name != "_rebindings")

    @staticmethod
    def children(container: Any) -> tuple[Any, ...]:
        return tuple(getattr(container, name, MISSING) for name in _Slots.names(container))

    @staticmethod
    def keys(container: Any) -> tuple[Any, ...]:
        return _Slots.names(container)

    @staticmethod
    def set(container: Any, key: Any, value: Any) -> None:
        setattr(container, key, value)

    @staticmethod
    def restore(container: Any, keys: tuple[Any, ...], children: tuple[Any, ...]) -> None:
        for key, child in zip(keys, children, strict=True):
            if child is not MISSING:
                setattr(container, key, child)


@dataclass(frozen=True)
class Named:
    """Names that a function reads, and where it reads them: its globals or its closure.

    Attributes:
        names: what it reads; get, put: how one of them is read and written.
        cells: of the closure, in the order of the names; space: of the globals; function: whose
            defaults and code these are. Who looks often reads there.
    """

    names: tuple[str, ...]
    get: Callable[[str], Any]
    put: Callable[[str, Any], None]
    cells: tuple[types.CellType, ...] = ()
    space: dict[str, Any] | None = None
    function: Any = None


class _Names(Container):
    template = "{key}"

    @staticmethod
    def children(container: Any) -> tuple[Any, ...]:
        return tuple(map(container.get, container.names))

    @staticmethod
    def keys(container: Any) -> tuple[Any, ...]:
        return container.names

    @staticmethod
    def set(container: Any, key: Any, value: Any) -> None:
        container.put(key, value)

    @staticmethod
    def restore(container: Any, keys: tuple[Any, ...], children: tuple[Any, ...]) -> None:
        for key, child in zip(keys, children, strict=True):
            if child is not MISSING:
                container.put(key, child)


class Entry:
    """One container as it was seen: its children, and which of them are containers or tensors.

    An `owner` counts the assignments to it in `_rebindings`; while that stays, nothing is compared.
    """

    __slots__ = (
        "children", "container", "entries", "ids", "keys", "kind", "owner", "path", "rebindings",
        "slots",
    )  # fmt: skip

    def __init__(self, path: str, kind: type[Container], container: Any) -> None:
        self.path = path
        self.kind = kind
        self.container = container
        self.entries: dict[int, Entry] = {}  # position of a child -> its entry
        self.slots: dict[int, int] = {}  # position of a child -> number of the tensor
        self.owner: Any = None
        self.rebindings = -1
        self.remember(kind.children(container))

    def remember(self, children: tuple[Any, ...]) -> None:
        self.children = children  # held, so that the identities below stay theirs
        self.ids = tuple(map(id, children))
        self.keys = self.kind.keys(self.container)

    def has_its_keys(self) -> bool:
        """Whether the keys are the same objects in the same order, where there are keys at all."""
        container = self.container
        return not isinstance(container, dict) or (
            len(container) == len(self.keys) and all(map(operator.is_, container, self.keys))
        )

    def has_values(self) -> bool:
        """Whether every name has one: those of a closure may not be assigned yet."""
        return all(child is not MISSING for child in self.children)

    def name(self, position: int) -> str:
        return self.name_of(self.keys[position])

    def name_of(self, key: Any) -> str:
        """The path of the child at `key`; a tensor, a key of optimizers' states, by its shape."""
        shown = _Described(key) if isinstance(key, Tensor) else key
        return self.kind.template.format(path=self.path, key=shown)


class _Described:
    """A tensor that is a key, by its shape."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __repr__(self) -> str:
        return f"tensor of shape {tuple(self._tensor.shape)}"


class Snapshot:
    """Everything that is reachable from a function and the arguments of one call.

    Attributes:
        tensors: the reachable tensors, each place once, in a fixed order.
        paths: the name of each of these places, such as "net.conv1.weight".
        generators: the reachable random generators.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.entries: list[Entry] = []
        self.tensors: list[Tensor] = []
        self.paths: list[str] = []
        self.generators: list[Generator] = []
        self._arrays: list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._seen: dict[int, Any] = {}
        names = _parameter_names(function, len(arguments))
        self._root = Entry("", _Sequence, arguments)
        self.entries.append(self._root)
        waiting: list[tuple[Entry, int, str]] = [
            (self._root, position, names[position]) for position in range(len(arguments))
        ]
        for path, kind, container in _surroundings("", function):
            waiting += self._enter(path, kind, container)
        self._walk(waiting)

    def _enter(
        self, path: str, kind: type[Container], container: Any
    ) -> Iterator[tuple[Entry, int, str]]:
        entry = Entry(path, kind, container)
        self.entries.append(entry)
        return ((entry, position, entry.name(position)) for position in range(len(entry.children)))

    def _walk(self, waiting: list[tuple[Entry, int, str]]) -> None:
        waiting.reverse()
        while waiting:
            entry, position, path = waiting.pop()
            child = entry.children[position]
            if isinstance(child, Tensor):
                entry.slots[position] = len(self.tensors)
                self.tensors.append(child)
                self.paths.append(path)
                continue
            if _is_atom(child) or id(child) in self._seen:
                continue
            self._seen[id(child)] = child
            if isinstance(child, Generator):  # its counter moves with every draw
                self.generators.append(child)
                continue
            if isinstance(child, np.ndarray):
                self._arrays.append((path, child, child.copy()))
                continue
            owner = child if isinstance(getattr(child, "_rebindings", None), int) else None
            table = entry.owner is not None and entry.keys[position] in MODULE_TABLES
            if table:
                owner = entry.owner
            for inner, kind, container in _containers(path, child):
                if table:  # the tables of a module are no part of a path
                    inner, kind = entry.path, _Fields
                found = list(self._enter(inner, kind, container))
                made = self.entries[-1]
                made.owner = owner
                if isinstance(child, (dict, list, tuple)):
                    entry.entries[position] = made
                waiting += reversed(found)

    @property
    def has_arrays(self) -> bool:
        """Whether NumPy arrays are reachable, which are compared element by element."""
        return bool(self._arrays)

    def argument_slots(self, count: int) -> list[tuple[int, int]]:
        """The tensors among the first `count` arguments: position, and number of the tensor."""
        return [(place, number) for place, number in self._root.slots.items() if place < count]

    def refresh(self, arguments: tuple[Any, ...]) -> None:
        """Compare everything with what it was; take equal objects in, and new tensors, whose kind
        the caller compares.

        Raises:
            Changed: if anything that Python code can see is different.
        """
        self._root.container = arguments
        for entry in self.entries:
            owner = entry.owner
            if owner is not None and owner._rebindings == entry.rebindings:
                continue
            children = entry.kind.children(entry.container)
            if tuple(map(id, children)) != entry.ids or not entry.has_its_keys():
                self._reconcile(entry, children)
            if owner is not None:
                entry.rebindings = owner._rebindings
        for path, array, before in self._arrays:
            if array.shape != before.shape or array.tobytes() != before.tobytes():
                raise Changed(path)

    def _reconcile(self, entry: Entry, children: tuple[Any, ...]) -> None:
        if len(children) != len(entry.children) or entry.kind.keys(entry.container) != entry.keys:
            raise Changed(entry.path or "the number of arguments")
        for position, (before, after) in enumerate(zip(entry.children, children, strict=True)):
            if before is after:
                continue
            slot = entry.slots.get(position)
            if slot is not None and type(after) is type(before):
                self.tensors[slot] = after
            elif (inner := entry.entries.get(position)) is not None and type(after) is type(before):
                inner.container = after
                if inner.owner is before:  # it counts its own changes, and is another one now
                    inner.owner, inner.rebindings = after, -1
            elif not _equal_atoms(before, after):
                raise Changed(entry.name(position))
        entry.remember(children)

    def changes(self) -> list[Change]:
        """What is different now from what it was, child by child; grown containers too."""
        found = []
        for entry in self.entries:
            children = entry.kind.children(entry.container)
            keys = entry.kind.keys(entry.container)
            if tuple(map(id, children)) == entry.ids and keys == entry.keys:
                continue
            was = dict(zip(entry.keys, entry.children, strict=True))
            now = dict(zip(keys, children, strict=True))
            for key in {**was, **now}:
                before, after = was.get(key, MISSING), now.get(key, MISSING)
                if before is not after and not _equal_atoms(before, after):
                    path = entry.name_of(key)
                    found.append(Change(path, entry, key, before, after))
        for path, array, before in self._arrays:
            if array.tobytes() != before.tobytes():
                found.append(Change(path, self._root, None, before, array))
        return found

    def restore(self) -> None:
        """Put every container back to what it held."""
        for entry in self.entries:
            children = entry.kind.children(entry.container)
            if tuple(map(id, children)) != entry.ids:
                entry.kind.restore(entry.container, entry.keys, entry.children)
        for _, array, before in self._arrays:
            if array.flags.writeable:
                array[...] = before


def missing(value: Any) -> bool:
    """Whether a `Change` says that there was nothing, or is nothing any more."""
    return value is MISSING


def _is_atom(value: Any) -> bool:
    return isinstance(value, _ATOMS) or (
        isinstance(value, (tuple, frozenset)) and all(isinstance(item, _ATOMS) for item in value)
    )


def _equal_atoms(before: Any, after: Any) -> bool:
    if type(before) is not type(after) or not _is_atom(before):
        return False
    return bool(before == after) or (before != before and after != after)


def _containers(path: str, child: Any) -> Iterator[tuple[str, type[Container], Any]]:
    """The containers through which the insides of `child` are read; none for opaque objects."""
    if isinstance(child, dict):
        yield path, _Dictionary, child
    elif isinstance(child, (list, tuple)):
        yield path, _Sequence, child
    elif isinstance(child, (types.FunctionType, types.MethodType, functools.partial)):
        yield from _surroundings(path, child)
    elif "__wrapped__" in getattr(child, "__dict__", ()):
        # a compiled step: what it calls counts, what it knows about its calls does not
        yield from _surroundings(path, child.__wrapped__)
    elif not _is_library_object(child):
        if hasattr(child, "__dict__"):
            yield path, _Fields, vars(child)
        if _Slots.names(child):
            yield path, _Slots, child


def _is_library_object(value: Any) -> bool:
    """Objects of the standard library and of installed packages are compared by identity only."""
    module = type(value).__module__
    return module == "builtins" or (module.partition(".")[0] != "avalon" and _in_library(module))


@functools.lru_cache(maxsize=1024)
def _in_library(module: str) -> bool:
    found = inspect.sys.modules.get(module)  # type: ignore[attr-defined]
    file = getattr(found, "__file__", None)
    return (
        found is not None
        and module != "__main__"
        and (file is None or file.startswith(_LIBRARY_PATHS))
    )


def _surroundings(path: str, function: Any) -> Iterator[tuple[str, type[Container], Any]]:
    """What a function can see besides its arguments: closure, defaults, `self`, named globals."""
    if isinstance(function, functools.partial):
        yield f"{path}args", _Sequence, function.args
        yield f"{path}keywords", _Dictionary, function.keywords
        function = function.func
    if isinstance(function, types.MethodType):
        yield path, _Sequence, (function.__self__,)
        function = function.__func__
    if hasattr(function, "traces"):
        return  # a composite function sees its arguments only, and what it keeps is no state
    if not isinstance(function, types.FunctionType):
        if callable(function) and not _is_atom(function) and not _is_library_object(function):
            yield path or type(function).__name__, _Sequence, (function,)
        return
    if function.__closure__:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
        yield path, _Names, Named(
            tuple(cells), _reader(cells), _writer(cells), tuple(cells.values())
        )
    if function.__defaults__ or function.__kwdefaults__:
        names: tuple[str, ...] = ("__defaults__", "__kwdefaults__", "__code__")
        read, put = functools.partial(getattr, function), functools.partial(setattr, function)
        yield path, _Names, Named(names, read, put, function=function)
    module = function.__module__ or ""
    if module.partition(".")[0] == "avalon" or _in_library(module):
        return  # the globals of libraries are not state
    space = function.__globals__
    names = tuple(name for name in _global_names(function.__code__) if name in space)
    if names:
        read = functools.partial(_global, space)
        yield path, _Names, Named(names, read, space.__setitem__, space=space)


def _global(space: dict[str, Any], name: str) -> Any:
    return space.get(name, MISSING)


def _reader(cells: dict[str, types.CellType]) -> Callable[[str], Any]:
    def get(name: str) -> Any:
        try:
            return cells[name].cell_contents
        except ValueError:  # not assigned yet
            return MISSING

    return get


def _writer(cells: dict[str, types.CellType]) -> Callable[[str, Any], None]:
    def put(name: str, value: Any) -> None:
        cells[name].cell_contents = value

    return put


_READS_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL")


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """Every global name that the code, or code inside it, mentions."""
    names: dict[str, None] = {}
    waiting = [code]
    while waiting:
        code = waiting.pop()
        # co_names holds attributes too: `optimizer.step` does not mention a global `step`
        found = [i.argval for i in dis.get_instructions(code) if i.opname in _READS_GLOBAL]
        names.update(dict.fromkeys(found))
        waiting += [item for item in code.co_consts if isinstance(item, types.CodeType)]
    return tuple(names)


def _parameter_names(function: Callable[..., Any], count: int) -> list[str]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    if isinstance(function, types.MethodType):
        names = names[1:]
    return names[:count] + [f"argument {number}" for number in range(len(names), count)]
