"""Native code: LLVM text becomes object code, object code becomes callable addresses.

Comes in: kernels (a symbol and its LLVM text) and the machine to build for, as plain strings. Goes
out: a `Library` with the address of each symbol. Guaranteed: the text is verified before it reaches
LLVM's code generator and may import no symbol; equal kernels are built once, then found in memory
or in the cache folder; code stays loaded while a `Library` that names it lives.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as once
from typing import Any, Protocol

import llvmlite
import llvmlite.binding as llvm

from avalon.runtime import cache
from avalon.runtime.plan import Kernel
from avalon.settings import settings

_LOADED_LIMIT = 2048  # kernels that stay loaded though no program uses them
_NOTICE_SECONDS = 0.3
_OPTIMIZATION = 2  # of LLVM's code generator; its passes over the text are not run

VERSIONS = f"llvmlite {llvmlite.__version__}, LLVM {'.'.join(map(str, llvm.llvm_version_info))}"


class Machine(Protocol):
    """What the runtime must know of a machine that code is built for."""

    @property
    def triple(self) -> str: ...
    @property
    def cpu(self) -> str: ...
    @property
    def features(self) -> str: ...


@dataclass(frozen=True)
class NamedMachine:
    """A machine by LLVM's names of its triple, processor and features."""

    triple: str
    cpu: str = ""
    features: str = ""


@once
def host() -> NamedMachine:
    """The machine that runs this process."""
    features = llvm.get_host_cpu_features().flatten()
    return NamedMachine(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)


@dataclass(frozen=True)
class Library:
    """Loaded kernels. `addresses` is valid while this object lives."""

    addresses: dict[str, int]
    built: int  # kernels that had to be built, not found in a cache
    seconds: float  # time that compiling, building and loading took
    keep: tuple[object, ...]


def key_of(text: str, machine: Machine) -> str:
    """The name of a kernel's object code in the caches: its text, its machine, the versions."""
    digest = hashlib.sha256()
    for part in (VERSIONS, machine.triple, machine.cpu, machine.features, text):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def object_code(text: str, machine: Machine) -> bytes:
    """Return the object code of LLVM text. May be called from several threads at once.

    Raises:
        ValueError: if the text is not valid LLVM, or imports a symbol.
    """
    # A context of its own keeps LLVM's memory from growing with every kernel.
    context = llvm.create_context()
    module = _parse(text, context)
    return _emit()(_target_machine(machine), module)


def assembly(text: str, machine: Machine) -> str:
    """Return the assembly of LLVM text, for reading."""
    context = llvm.create_context()
    return str(_target_machine(machine).emit_assembly(_parse(text, context)))


def load(
    kernels: Iterable[Kernel], machine: Machine, name: str = "", started: float | None = None
) -> Library:
    """Return the kernels' addresses, building those that no cache holds.

    `name` says in the notice about a long build what was built, and `started`, by
    `time.perf_counter`, when its compilation began if that was before this call.
    """
    if started is None:
        started = time.perf_counter()
    names = (machine.triple, machine.cpu, machine.features)
    found: dict[str, _Loaded] = {}
    missing: dict[str, str] = {}
    with _lock:
        for kernel in kernels:
            key = (*names, kernel.text)
            loaded = _loaded.get(key)
            if loaded is None:
                missing[kernel.symbol] = kernel.text
            else:
                _loaded.move_to_end(key)
                found[kernel.symbol] = loaded
    built = 0
    if missing:
        objects, built = _find_or_build(missing.values(), machine)
        tracker = _link(objects, missing)
        with _lock:
            for symbol, text in missing.items():
                found[symbol] = _loaded[*names, text] = _Loaded(tracker[symbol], tracker)
            while len(_loaded) > _LOADED_LIMIT:
                _loaded.popitem(last=False)
    seconds = time.perf_counter() - started
    if built and seconds > _NOTICE_SECONDS:
        _notice(built, seconds, name)
    keep = {id(entry.keep): entry.keep for entry in found.values()}
    addresses = {symbol: entry.address for symbol, entry in found.items()}
    return Library(addresses, built, seconds, tuple(keep.values()))


def load_entries(kernel: Kernel, entries: Iterable[str], machine: Machine) -> Library:
    """Load one text that defines several functions; return the addresses of `entries`."""
    started = time.perf_counter()
    objects, built = _find_or_build([kernel.text], machine)
    names = tuple(entries)
    tracker = _link(objects, names)
    seconds = time.perf_counter() - started
    return Library({name: tracker[name] for name in names}, built, seconds, (tracker,))


def forget() -> None:
    """Drop the loaded kernels that no program uses."""
    with _lock:
        _loaded.clear()


@dataclass(frozen=True)
class _Loaded:
    address: int
    keep: Any  # LLVM unloads the code when its resource tracker dies


_loaded: OrderedDict[tuple[str, ...], _Loaded] = OrderedDict()
_lock = threading.Lock()
_library_numbers = itertools.count()
_own = threading.local()


def renew_lock() -> None:
    """Start with a free lock in a forked child, whatever the parent's threads were doing."""
    global _lock
    _lock = threading.Lock()


@once
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def _target_machine(machine: Machine) -> Any:
    """LLVM's machine. Each thread has its own, for one of them serves one module at a time."""
    if not hasattr(_own, "machines"):
        _own.machines = {}
    key = (machine.triple, machine.cpu, machine.features)
    if key not in _own.machines:
        _initialize()
        _own.machines[key] = llvm.Target.from_triple(machine.triple).create_target_machine(
            cpu=machine.cpu,
            features=machine.features,
            opt=_OPTIMIZATION,
            reloc="pic",
            codemodel="small",
        )
    return _own.machines[key]


@once
def _emit() -> Callable[[Any, Any], bytes]:
    """Return the function from a machine and a module to object code.

    llvmlite lets one thread into LLVM at a time. Code generation, which is nearly all the time,
    is safe in parallel when contexts and machines are apart, so it is called past that lock.
    """
    try:
        emit = ctypes.CDLL(llvm.ffi.lib._name).LLVMPY_TargetMachineEmitToMemory
        start = llvm.ffi.lib.LLVMPY_GetBufferStart
        size = llvm.ffi.lib.LLVMPY_GetBufferSize
        dispose = llvm.ffi.lib.LLVMPY_DisposeMemoryBuffer
    except (AttributeError, OSError):  # another llvmlite: take turns
        return lambda machine, module: bytes(machine.emit_object(module))
    emit.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_char_p),
    ]
    emit.restype = start.argtypes[0]

    def emit_object(machine: Any, module: Any) -> bytes:
        message = ctypes.c_char_p()
        memory = emit(machine, module, 1, ctypes.byref(message))
        if not memory:
            raise ValueError(f"[kernel] LLVM builds no object code: {message.value!r}")
        try:
            return ctypes.string_at(start(memory), size(memory))
        finally:
            dispose(memory)

    return emit_object


@once
def _loader() -> Any:
    """The one LLJIT of the process. JITLink puts code and constants side by side, as the small code
    model asks.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.create_lljit_compiler(None, use_jit_link=True)


def _parse(text: str, context: Any) -> Any:
    try:
        module = llvm.parse_assembly(text, context)
        module.verify()
    except RuntimeError as error:
        raise ValueError(
            f"[kernel] LLVM rejects the text of {_symbol_in(text)}: {error}. "
            "The text is in Program.kernels[...].text."
        ) from error
    for function in module.functions:
        if function.is_declaration and not function.name.startswith("llvm."):
            raise ValueError(
                f"[kernel] {_symbol_in(text)} imports the symbol {function.name!r}; a kernel must "
                "be complete in itself. Emit what the symbol does."
            )
    return module


def _symbol_in(text: str) -> str:
    rest = text.partition("define ")[2]
    return repr(rest.partition("@")[2].partition("(")[0]) if rest else "a kernel"


def _find_or_build(texts: Iterable[str], machine: Machine) -> tuple[list[bytes], int]:
    """Return the object code of each text, and how many had to be built."""
    _check_that_it_runs_here(machine)
    keys = {key_of(text, machine): text for text in texts}
    found = {key: (text, cache.read("kernel", key)) for key, text in keys.items()}
    objects = {key: code for key, (_, code) in found.items() if code is not None}
    missing = {key: text for key, (text, code) in found.items() if code is None}
    helpers = min(settings.threads, len(missing))
    if helpers > 1:
        by_length = sorted(missing, key=lambda key: -len(missing[key]))
        with ThreadPoolExecutor(helpers, "avalon-compile") as executor:
            codes = executor.map(lambda key: object_code(missing[key], machine), by_length)
            built = dict(zip(by_length, codes, strict=True))
    else:
        built = {key: object_code(text, machine) for key, text in missing.items()}
    for key, code in built.items():
        cache.write("kernel", key, code)
    objects |= built
    return [objects[key] for key in found], len(built)


def _check_that_it_runs_here(machine: Machine) -> None:
    here, there = host().triple.partition("-")[0], machine.triple.partition("-")[0]
    if here != there:
        raise ValueError(
            f"[kernel] code for {there} does not run on this machine, which is {here}; it can only "
            "be read, as assembly. Set settings.target to a feature set of this machine."
        )


def _link(objects: Iterable[bytes], symbols: Iterable[str]) -> Any:
    builder = llvm.JITLibraryBuilder()
    for code in objects:
        builder.add_object_img(code)
    for symbol in symbols:
        builder.export_symbol(symbol)
    return builder.link(_loader(), f"avalon.{next(_library_numbers)}")


def _notice(built: int, seconds: float, name: str) -> None:
    kept = f"kept in {settings.cache}" if cache.usable() else "not kept: no cache folder"
    kernels = "1 kernel" if built == 1 else f"{built} kernels"
    for_name = f" for {name}" if name else ""
    print(f"avalon: compiled {kernels}{for_name} in {seconds:.1f} s ({kept})", file=sys.stderr)
