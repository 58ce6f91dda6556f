"""Loading kernels: from LLVM text, from the cache folder, from memory; what is refused and said."""

from __future__ import annotations

import ctypes

import pytest

from avalon.runtime import library
from avalon.runtime.plan import Kernel
from avalon.settings import settings
from tests.runtime import plans


@pytest.fixture(autouse=True)
def _fresh_caches(tmp_path):
    settings.cache = tmp_path / "cache"
    library.forget()


def constant(symbol, value):
    head = f"define void @{symbol}(ptr %slots, i64 %begin, i64 %end, ptr %scratch) nounwind"
    return Kernel(symbol, f"{head} {{\n  store i64 {value}, ptr %slots\n  ret void\n}}")


def result_of(address):
    word = ctypes.c_int64()
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(address)(ctypes.addressof(word), 0, 0, 0)
    return word.value


def test_kernels_are_built_once_then_found_in_memory_or_on_disk():
    kernels = [constant(f"k{n}", n) for n in range(5)]
    first = library.load(kernels, library.host())
    again = library.load(kernels, library.host())
    library.forget()
    from_disk = library.load(kernels, library.host())
    assert (first.built, again.built, from_disk.built) == (5, 0, 0)
    assert first.addresses == again.addresses
    for loaded in (first, from_disk):
        assert [result_of(loaded.addresses[f"k{n}"]) for n in range(5)] == list(range(5))


def test_one_symbol_may_name_different_kernels():
    one = library.load([constant("same", 1)], library.host())
    two = library.load([constant("same", 2)], library.host())
    assert (result_of(one.addresses["same"]), result_of(two.addresses["same"])) == (1, 2)


def test_code_lives_as_long_as_its_library(monkeypatch):
    monkeypatch.setattr(library, "_LOADED_LIMIT", 2)
    first = library.load([constant("first", 7)], library.host())
    for number in range(10):
        library.load([constant(f"k{number}", number)], library.host())
    assert len(library._loaded) == 2
    assert result_of(first.addresses["first"]) == 7


def test_keys_tell_texts_machines_and_versions_apart(monkeypatch):
    host = library.host()
    keys = {
        library.key_of("a", host),
        library.key_of("b", host),
        library.key_of("a", library.NamedMachine(host.triple, "x86-64-v3")),
        library.key_of("a", library.NamedMachine(host.triple, "", "+avx2")),
    }
    monkeypatch.setattr(library, "VERSIONS", "llvmlite 99")
    keys.add(library.key_of("a", host))
    assert len(keys) == 5


def test_building_on_one_core_or_many_gives_the_same_code():
    texts = [f"; {n}\n{kernel.text}" for n in range(3) for kernel in (plans.ADD, plans.CHECK)]
    settings.threads = 4
    parallel, built = library._find_or_build(texts, library.host())
    assert built == len(texts)
    assert parallel == [library.object_code(text, library.host()) for text in texts]


def test_invalid_text_is_refused_with_the_name_of_the_kernel():
    with pytest.raises(ValueError, match=r"\[kernel\] LLVM rejects the text of 'bad'"):
        library.load([Kernel("bad", "define void @bad() { ret i32 0 }")], library.host())


def test_text_that_does_not_verify_is_refused():
    text = "define void @bad(i1 %c) {\nentry:\n  %x = add i32 %y, 1\n  %y = add i32 1, 1\n"
    with pytest.raises(ValueError, match="LLVM rejects"):
        library.load([Kernel("bad", text + "  ret void\n}")], library.host())


def test_a_kernel_may_import_nothing():
    text = "declare double @erf(double)\ndefine void @k() {\n  ret void\n}"
    with pytest.raises(ValueError, match="'k' imports the symbol 'erf'"):
        library.load([Kernel("k", text)], library.host())


@pytest.mark.parametrize("cpu", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_kernels_are_assembled_for_other_machines(cpu):
    machine = library.NamedMachine("x86_64-unknown-linux-gnu", cpu)
    assert "add:" in library.assembly(plans.ADD.text, machine)


def test_kernels_are_assembled_for_arm():
    machine = library.NamedMachine("aarch64-unknown-linux-gnu")
    assert "fadd" in library.assembly(plans.ADD.text, machine)


def test_code_for_another_architecture_is_not_loaded():
    machine = library.NamedMachine("aarch64-unknown-linux-gnu")
    if library.host().triple.startswith("aarch64"):
        machine = library.NamedMachine("x86_64-unknown-linux-gnu")
    with pytest.raises(ValueError, match="does not run on this machine"):
        library.load([plans.ADD], machine)


def test_a_long_build_says_so_once(monkeypatch, capsys):
    monkeypatch.setattr(library, "_NOTICE_SECONDS", 0.0)
    library.load([plans.ADD], library.host(), "step")
    library.load([plans.ADD], library.host(), "step")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("avalon: compiled 1 kernel for step in ")
    assert str(settings.cache) in said


def test_a_short_build_is_silent(capsys):
    library.load([plans.ADD], library.host(), "step")
    assert capsys.readouterr().err == ""
