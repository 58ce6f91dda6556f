"""Loads one kernel and calls it on NumPy arrays, for tests of the code generator.

`run(text, arguments, begin, end)` takes arrays (passed by address) and Python integers;
`elementwise` builds, loads and runs a kernel that applies a function of `Emit` to arrays.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Value
from avalon.codegen.target import Target, host, named
from avalon.dtype import DType

Array = np.ndarray[Any, Any]
_keep: list[Any] = []
_compilers: dict[Target, Any] = {}


def load(text: str, symbol: str, target: Target | None = None) -> Callable[..., None]:
    """Assemble a kernel and return it as `kernel(slots, begin, end, scratch)` of integers."""
    target = target or host()
    machine = target.machine()
    module = llvm.parse_assembly(text, llvm.create_context())
    module.verify()
    module.triple = target.triple
    module.data_layout = str(machine.target_data)
    if target not in _compilers:
        _compilers[target] = llvm.create_lljit_compiler(target.machine())
    library = llvm.JITLibraryBuilder().add_object_img(machine.emit_object(module))
    tracker = library.export_symbol(symbol).link(_compilers[target], f"{symbol}{len(_keep)}")
    _keep.append(tracker)
    function = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    )
    return function(tracker[symbol])


def runnable() -> list[Target]:
    """The named feature sets that this machine can run, widest first."""
    order = ["avx512", "avx2", "x86"]
    found = host().name
    return [named(name) for name in order[order.index(found) :]] if found in order else [host()]


def calls(text: str, target: Target) -> list[str]:
    """The machine's call instructions in a kernel: there should be none."""
    module = llvm.parse_assembly(text, llvm.create_context())
    module.verify()
    module.triple = target.triple
    lines = target.machine().emit_assembly(module).splitlines()
    return [line for line in lines if line.split()[:1] in (["call"], ["callq"], ["bl"], ["blr"])]


def slots(arguments: Sequence[Array | int | float]) -> Array:
    """The slot words of arguments; float scalars are passed as float32."""
    words = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            words.append(argument.ctypes.data)
        elif isinstance(argument, float):
            words.append(struct.unpack("<q", struct.pack("<f4x", argument))[0])
        else:
            words.append(argument)
    return np.array(words, dtype=np.int64)


def run(
    text: str,
    symbol: str,
    arguments: Sequence[Array | int | float],
    begin: int = 0,
    end: int = 1,
    target: Target | None = None,
    scratch: int = 1 << 20,
) -> None:
    """Assemble a kernel and call it once."""
    kernel, words = load(text, symbol, target), slots(arguments)
    memory = np.zeros(scratch + 64, np.uint8)
    kernel(words.ctypes.data, begin, end, (memory.ctypes.data + 63) & ~63)


def elementwise_text(
    function: Callable[..., Value],
    operands: Sequence[DType],
    result: DType,
    lanes: int,
    target: Target,
) -> str:
    """The text of a kernel that applies `function(emit, *values)` to elements [begin, end)."""
    emit = Emit("kernel", target)
    with emit.loop(emit.begin, emit.end, lanes) as loop:
        mask = None
        if lanes > 1:
            mask = emit.mask_below(emit.subtract(emit.end, loop.index), lanes)
        values = [
            emit.load(emit.pointer(slot), loop.index, dtype, lanes, mask)
            for slot, dtype in enumerate(operands)
        ]
        value = function(emit, *values)
        assert (value.dtype, value.lanes) == (result, lanes)
        emit.store(emit.pointer(len(operands)), loop.index, value, mask)
    return emit.finish()


def elementwise(
    function: Callable[..., Value],
    *operands: Array,
    result: DType | None = None,
    dtype: DType | None = None,
    kinds: Sequence[DType] = (),
    lanes: int = 0,
    target: Target | None = None,
) -> Array:
    """Apply a function of `Emit` to arrays. `dtype`, or `kinds` one by one, say what the operands'
    bytes are (uint16 may be bfloat16).
    """
    target = target or host()
    kinds = kinds or [dtype or dtypes.from_numpy(operand.dtype) for operand in operands]
    result = result or kinds[0]
    lanes = lanes or target.lanes
    output = np.zeros(operands[0].size, result.storage)
    text = elementwise_text(function, kinds, result, lanes, target)
    arrays = [np.ascontiguousarray(operand).ravel() for operand in operands]
    run(text, "kernel", [*arrays, output], 0, output.size, target)
    return output.reshape(operands[0].shape)
