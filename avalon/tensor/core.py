"""Tensor: a window on a cell, with a gradient history of its own.

Comes in: primitives applied to tensors (`ops.add(x, y)`), views, writes. Goes out: tensors. The
cell holds the value; a tensor adds the movements that lead from the cell to it, and remembers for
gradients which tensor it is a view of (its base). Guaranteed: aliasing, versions, leaves and the
errors about them are PyTorch's, while every value underneath is immutable; a write makes a new
value for the cell and, in grad mode, a new history for the base. What a movement does is in
`views`, what a write does in `writes`; functions add their methods with `method`.

PyTorch's rules:
https://docs.pytorch.org/docs/stable/notes/autograd.html#in-place-operations-with-autograd
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from avalon.device import CPU, Device
from avalon.dtype import DType
from avalon.errors import AutogradError, DTypeError, ShapeError, TraceError
from avalon.graph.primitive import Elementwise, Primitive
from avalon.rebinding import rebindings
from avalon.shape import Shape
from avalon.tensor.cell import Cell, Move, continued, moved, piece
from avalon.tensor.layout import elementwise_strides, plain_strides
from avalon.tracing.history import History, Hook, Leaf, next_hook_number
from avalon.tracing.modes import modes
from avalon.tracing.operation import call_of
from avalon.tracing.recorded import user_place
from avalon.tracing.values import Value, constant, record, recorder

if TYPE_CHECKING:
    from avalon.tensor.typed import Installed
else:
    Installed = object

Function = TypeVar("Function", bound=Callable[..., Any])

# How a view came to be, which decides whether it may be written in place in grad mode.
DEFAULT, NO_GRAD, MULTIPLE = "default", "no_grad", "multiple"


class Counter:
    """A version counter, shared by a tensor, its views and what was detached from it.

    After every write, `bases` (the tensors of them that have views) note where their cotangents go:
    views that are older than the write follow that, whenever they are asked.
    """

    __slots__ = ("bases", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bases: list[weakref.ref[Tensor]] = []

    def add(self, base: Tensor) -> None:
        """Note a tensor that has views."""
        count = len(self.bases)
        if count >= 16 and not count & (count - 1):  # now and then, those that died are dropped
            self.bases = [reference for reference in self.bases if reference() is not None]
        self.bases.append(weakref.ref(base))

    def write(self) -> None:
        """Count a write."""
        self.count += 1
        for reference in self.bases:
            base = reference()
            if base is not None:
                base._written = base._edge()


class Tensor(Installed):
    """An array with PyTorch's semantics, whose operations are recorded and run when a value is
    needed.

    >>> import avalon as av
    >>> x = av.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([[2., 4.],
            [6., 8.]])

    Source: https://docs.pytorch.org/docs/stable/tensors.html
    """

    __array_priority__ = 1000
    __array_ufunc__ = None  # so that `array * tensor` asks the tensor

    shape: Shape
    dtype: DType
    _cell: Cell
    _moves: tuple[Move, ...] = ()  # from the cell's value to this tensor
    _strides: Shape | None = None  # None: contiguous
    _offset: int = 0
    _memo: Value | None = None
    _memo_version = -1
    _moved_along = -1  # the cell's version for which a reader did the movements

    _base: Tensor | None = None  # the tensor whose history this view follows
    _path: tuple[Move, ...] = ()  # from that tensor to this one
    _creation = DEFAULT
    _seen = 0  # the version at which `_history` was made, for views
    _has_views = False
    _written: History | None = None  # where cotangents went after the last write, if it has views
    _counter: Counter | None = None
    _history: History | None = None
    _leaf: Leaf | None = None
    _requires = False
    _grad: Tensor | None = None

    def __new__(cls, *data: Any, **options: Any) -> Tensor:
        """As `torch.Tensor`: sizes, or data that is converted to the default dtype."""
        return _constructors["Tensor"](cls, *data, **options)

    @classmethod
    def _make(cls, value: Value, history: History | None = None) -> Tensor:
        """A tensor on a new cell."""
        made = object.__new__(cls)
        made._cell = Cell(value, value.shape)
        made.shape = value.shape
        made.dtype = value.dtype
        if history is not None:
            made._history = history
        return made

    @staticmethod
    def _make_subclass(cls: type[Any], data: Tensor, require_grad: bool = False) -> Any:
        """An instance of a subclass that shares `data`'s storage and is a leaf of its own."""
        made = data._alias(cls)
        made._requires = require_grad
        return made

    def _alias(self, cls: type[Any] | None = None) -> Any:
        """A tensor on the same storage, without history."""
        made = object.__new__(cls or Tensor)
        made._cell = self._cell
        made._moves = self._moves
        made.shape = self.shape
        made.dtype = self.dtype
        made._strides = self._strides
        made._offset = self._offset
        return made

    # --- reading and recording ------------------------------------------------------------------

    def value(self) -> Value:
        """The value that this tensor has now, computed or pending."""
        cell = self._cell
        if cell.memory is not None:
            memory = cell.foreign()
            if memory is not None and modes.replay is not None:
                return self._snapshot()
            if memory is not None:
                window = memory.window(self.shape, self.stride(), self._offset)
                return Value.from_numpy(window, self.dtype)
        if not self._moves:
            return cell.value
        if self._memo is not None and self._memo_version == cell.version:
            return self._memo
        value = cell.value
        if modes.body is not None and value.recorder is not recorder():
            with modes.body.outside():
                return self.value()
        if self._lies_in_one_piece():
            value = piece(value, self.shape, self._offset)
        else:
            value = moved(value, self._moves)
        self._memo, self._memo_version = value, cell.version
        return value

    def _lies_in_one_piece(self) -> bool:
        """Whether this window shows a stretch of memory that is known and was never written, such
        as the rows of a batch. What is written again and again would have to be copied each time
        that somebody still looks into it.
        """
        cell = self._cell
        return (
            self._strides is None
            and not cell.version
            and cell.strides is None
            and cell.value.buffer is not None
            and modes.replay is None
        )

    def _snapshot(self) -> Value:
        """What memory that others can write held when the recording for replay began."""
        if self._memo is None or self._memo_version != self._cell.version:
            raise TraceError(
                "[compile] the step reads memory that is shared with NumPy through a view of its "
                "own making. Pass the view to the step as an argument, or clone() the tensor "
                "outside."
            )
        return self._memo

    def apply(
        self, primitive: Primitive, operands: tuple[Any, ...], parameters: dict[str, Any]
    ) -> Tensor:
        """Record a call of `primitive` on tensors: how primitives act on them."""
        values = tuple([
            cell.value
            if (cell := operand._cell).memory is None and not operand._moves
            else operand.value()
            for operand in operands
        ])
        if modes.body is not None:
            modes.body.meet(operands, values)
        edges: tuple[History | None, ...] | None = None
        if modes.grad:
            edges = tuple([operand._edge() for operand in operands])
            if edges.count(None) == len(edges):
                edges = None
            elif recorder().updated:
                recorder().flush()
        operation = call_of(primitive, values, parameters)
        line = user_place()
        (value,) = recorder().put(operation, values, line)
        made = Tensor._make(value)
        if edges is not None and value.dtype.kind in ("float", "complex"):
            made._history = History.of_call(operation, values, values, edges, value, value, line)
        if primitive.kind is Elementwise:
            for operand in operands:
                if operand._strides is not None:
                    made._lay_out(operands)
                    break
        return made

    def constant(
        self, value: Any, shape: Shape | None = None, dtype: DType | None = None
    ) -> Tensor:
        """A constant of this tensor's shape and dtype, unless others are given."""
        return Tensor._make(
            constant(
                value,
                self.shape if shape is None else shape,
                self.dtype if dtype is None else dtype,
            )
        )

    def _lay_out(self, operands: Sequence[Any]) -> None:
        """Take the strides that PyTorch gives the result of an elementwise operation."""
        self._set_strides(elementwise_strides(self.shape, operands))

    def _set_strides(self, strides: Shape) -> None:
        """Say how the elements of a new tensor lie."""
        plain = strides == plain_strides(self.shape)
        self._strides = self._cell.strides = None if plain else strides

    # --- views ----------------------------------------------------------------------------------

    def _view(
        self, moves: tuple[Move, ...], strides: Shape, offset: int, creation: str = DEFAULT
    ) -> Tensor:
        """The window of this tensor that `moves` lead to."""
        view = object.__new__(Tensor)
        view._cell = self._cell
        view.shape = moves[-1].shape if moves else self.shape
        view.dtype = self.dtype
        view._strides = None if strides == plain_strides(view.shape) else strides
        view._offset = offset
        base = self if self._base is None else self._base
        view._base = base
        view._moves = self._moves + moves
        # one tuple where both paths are the same: then a write does value and history together
        view._path = view._moves if self._path is self._moves else self._path + moves
        view._counter = counter = base._count()
        if not base._has_views:
            base._has_views = True
            counter.add(base)
        view._seen = counter.count
        if not modes.grad:
            view._creation = NO_GRAD
        elif creation is not DEFAULT:
            view._creation = creation
        elif self._creation is not DEFAULT:
            view._creation = self._creation
        if modes.grad:
            edge = self._edge()
            if edge is not None:
                view._history = continued(edge, self, moves)
        return view

    def before_write(self) -> Tensor:
        """This tensor as an operand of a write to itself. For a view, cotangents then go straight
        to its base, as in PyTorch: hooks of the view as it was are not called.
        """
        base = self._base
        if base is None or not modes.grad or self.grad_fn is None:
            return self
        edge = base._edge()
        if edge is None:
            return self
        operand: Tensor = self._alias()
        operand._history = continued(edge, base, self._path)
        return operand

    # --- gradients ------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """True if gradients go to this tensor or through it."""
        if self._requires or self._history is not None:
            return True
        if self._base is None:
            return False
        if self._base.requires_grad:
            return True
        stale = self._seen != self._count().count and self._base._written is not None
        return stale and self._creation is DEFAULT

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        self.requires_grad_(wanted)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Start or stop gathering gradients for this leaf."""
        if requires_grad and not (self.dtype.is_floating_point or self.dtype.is_complex):
            raise DTypeError(
                f"[requires_grad_] only Tensors of floating point and complex dtype can require "
                f"gradients; this one holds {self.dtype.name}"
            )
        if self._is_interior():
            if not requires_grad:
                raise AutogradError(
                    "[requires_grad_] you can only change requires_grad flags of leaf variables. "
                    "If you want to use a computed variable in a subgraph that doesn't require "
                    "differentiation use var_no_grad = var.detach()."
                )
            return self
        self._requires = bool(requires_grad)
        rebindings.count += 1
        if requires_grad and self._has_views and self._written is None:
            self._written = self._edge()
        return self

    @property
    def is_leaf(self) -> bool:
        """True for tensors that no recorded operation made."""
        return not self.requires_grad or self.grad_fn is None

    @property
    def grad_fn(self) -> History | None:
        """The history of this tensor, or None for a leaf. A view's is made anew after a write to
        its base or to another view of it.
        """
        base = self._base
        if base is None:
            return self._history
        count, edge = self._count().count, base._written
        follows = edge is not None if self._creation is DEFAULT else base.requires_grad
        if self._seen == count or (self._history is None and not follows):
            return self._history
        self._forbid_special_view("its base or another view of its base has been")
        if edge is None:  # a view of what a leaf view was made from
            self._rebase(History.of_function("constant", (), self, lambda g: ()))
        else:
            self._rebase(continued(edge, base, self._path))
        self._seen = count
        return self._history

    def _is_interior(self) -> bool:
        """True if an operation made this tensor. Does not raise, even for views from `no_grad`."""
        return (self.grad_fn if self._creation is DEFAULT else self._history) is not None

    def _edge(self) -> History | None:
        """Where cotangents of this tensor go: its history, its leaf, or None."""
        if self._base is None:
            if self._history is not None:
                return self._history
            if not self._requires:
                return None
        else:
            history = self.grad_fn
            if history is not None:
                return history
            if not self.requires_grad:
                return None
            if not self._requires:
                # a view from no_grad of something that requires gradients: they get lost here
                lost = History.of_function("no_grad view", (), self, lambda g: ())
                lost.ends = True
                return lost
        if self._leaf is None:
            self._leaf = Leaf(self)
        return self._leaf

    def _forbid_special_view(self, what: str) -> None:
        if self._creation is NO_GRAD:
            raise AutogradError(
                f"[in-place] A view was created in no_grad mode and {what} modified inplace with "
                "grad mode enabled. Given that this use case is ambiguous and error-prone, it is "
                "forbidden. Move both the view and the write inside the no_grad block, or both "
                "outside."
            )
        if self._creation is MULTIPLE:
            raise AutogradError(
                "[in-place] This view is the output of a function that returns multiple views, "
                f"and {what} modified inplace. Such functions do not allow the output views to be "
                "modified inplace. You should replace the inplace operation by an out-of-place one."
            )

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward` gathered, or None."""
        return self._grad

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:
        if gradient is not None:
            if not isinstance(gradient, Tensor):
                raise TypeError(f"[grad] assigned grad must be a Tensor or None, not {gradient!r}")
            if gradient is self:
                raise AutogradError("[grad] can't assign a Tensor as its own grad")
            if gradient.shape != self.shape:
                raise ShapeError(
                    f"[grad] assigned grad has shape {gradient.shape}, the tensor {self.shape}"
                )
            if gradient.dtype is not self.dtype:
                raise DTypeError(
                    f"[grad] assigned grad has dtype {gradient.dtype.name}, the tensor "
                    f"{self.dtype.name}"
                )
        self._grad = gradient
        rebindings.count += 1

    @grad.deleter
    def grad(self) -> None:
        self._grad = None
        rebindings.count += 1

    def _keep_gradient(self, gradient: Tensor, history: History) -> None:
        """Called by backward, where it passes `history`, for tensors that asked with
        `retain_grad`.
        """
        if self._creation is DEFAULT and self.grad_fn is not history:
            return  # a view whose base was written since
        rebindings.count += 1
        if self._grad is None:
            self._grad = (
                gradient.clone() if gradient.requires_grad else Tensor._make(gradient.value())
            )
        else:
            self._grad = self._grad + gradient

    def retain_grad(self) -> None:
        """Keep this tensor's gradient in `.grad`, though it is not a leaf."""
        if not self.requires_grad:
            raise AutogradError(
                "[retain_grad] can't retain_grad on Tensor that has requires_grad=False"
            )
        if self._is_interior():
            history = self._edge()
            assert history is not None
            if not history.keeps(self):
                history.keep(self)

    @property
    def retains_grad(self) -> bool:
        """True after `retain_grad` of a tensor that is not a leaf."""
        history = self._history
        return history is not None and history.keeps(self)

    def register_hook(self, hook: Hook) -> RemovableHook:
        """Call `hook(gradient)` when this tensor's gradient is computed; a result replaces it."""
        if not self.requires_grad:
            raise AutogradError(
                "[register_hook] cannot register a hook on a tensor that doesn't require gradient"
            )
        history = self._edge()
        assert history is not None
        return RemovableHook(history, hook)

    def _rebase(self, history: History) -> None:
        """Take a new history after a write; whoever keeps gradients goes along."""
        before = self._history
        if before is not None and before.forget(self):
            history.keep(self)
        self._history = history
        rebindings.count += 1

    @property
    def _version(self) -> int:
        return 0 if self._counter is None else self._counter.count

    version = _version

    def _count(self) -> Counter:
        if self._counter is None:
            self._counter = Counter()
        return self._counter

    # --- what it looks like ---------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def device(self) -> Device:
        """Where the value lives."""
        value = self._cell.value
        return CPU if value is None else value.device

    def stride(self, dim: int | None = None) -> Any:
        """Steps in elements between neighbours along each axis, as PyTorch would lay them out."""
        strides = plain_strides(self.shape) if self._strides is None else self._strides
        return strides if dim is None else strides[dim]

    def is_contiguous(self) -> bool:
        """True if the elements lie in row-major order without gaps."""
        if self._strides is None or 0 in self.shape:
            return True
        expected = 1
        for extent, step in zip(reversed(self.shape), reversed(self._strides), strict=True):
            if extent != 1:
                if step != expected:
                    return False
                expected *= extent
        return True

    def storage_offset(self) -> int:
        """Elements from the start of the storage to this tensor's first."""
        return self._offset

    def _same_window(self, other: Tensor) -> bool:
        """True if both show the same elements of the same storage."""
        return (
            self._cell is other._cell
            and self._offset == other._offset
            and self.shape == other.shape
            and self.stride() == other.stride()
        )

    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def __hash__(self) -> int:
        return id(self)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]


class RemovableHook:
    """What `register_hook` returns: `remove()` takes the hook away again."""

    def __init__(self, history: History, hook: Hook) -> None:
        self._number = next_hook_number()
        if history.hooks is None:
            history.hooks = {}
        self._hooks = history.hooks
        self._hooks[self._number] = hook

    def remove(self) -> None:
        """Do not call the hook any more."""
        self._hooks.pop(self._number, None)

    def __enter__(self) -> RemovableHook:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def method(name: str) -> Callable[[Function], Function]:
    """Make a function a method of Tensor: `@method("softmax")`. The function itself is returned."""

    def install(function: Function) -> Function:
        setattr(Tensor, name, function)
        return function

    return install


_constructors: dict[str, Callable[..., Any]] = {}


def constructor(function: Function) -> Function:
    """Say what `Tensor(...)` does."""
    _constructors["Tensor"] = function
    return function


def source(primitive: Primitive, *operands: Tensor, **parameters: Any) -> Tensor:
    """A tensor from a primitive that may have no operand: `source(ops.iota, shape=..., ...)`."""
    value = record(primitive, [operand.value() for operand in operands], parameters)
    return Tensor._make(value)


def wrap(value: Value, history: History | None) -> Tensor:
    """A tensor of a value and a history: what the walk back hands to hooks."""
    return Tensor._make(value, history)
