"""Programs: results, scalars, donation, checks, errors, printing, calls from many threads."""

from __future__ import annotations

import struct
import threading

import numpy as np
import pytest
import torch

from avalon import dtype
from avalon.errors import IndexOutOfRange
from avalon.runtime.buffer import Buffer
from avalon.runtime.plan import Argument, BufferSpec, InputSpec, Kernel, Launch, Plan
from avalon.runtime.program import Program
from avalon.runtime.shares import chunk_units, shared_gain
from avalon.runtime.values import scalar_bits
from avalon.settings import settings
from tests.runtime import plans


def floats(values):
    return Buffer.from_numpy(np.asarray(values, dtype="float32"))


def array(buffer, count):
    return buffer.as_numpy(dtype.float32, (count,)).copy()


@pytest.mark.parametrize("count", [1, 5, 1000])
@pytest.mark.parametrize("links", [1, 2, 5])
def test_a_chain_runs_through_temporaries(count, links):
    program = Program(plans.chain(count, links))
    a, b = np.arange(count, dtype="float32"), np.full(count, 0.5, "float32")
    for _ in range(3):
        (result,) = program.run([floats(a), floats(b)])
        assert (array(result, count) == a + links * b).all()


def test_outputs_are_fresh_at_each_call():
    program = Program(plans.chain(4))
    one, two = floats([1, 2, 3, 4]), floats([1, 1, 1, 1])
    (first,) = program.run([one, two])
    (second,) = program.run([two, two])
    assert first.address != second.address
    assert array(first, 4).tolist() == [3, 4, 5, 6]


def test_launches_without_work_are_skipped():
    (result,) = Program(plans.chain(0)).run([floats([]), floats([])])
    assert result.nbytes == 0


def test_a_program_without_launches_copies_its_inputs_and_constants():
    plan = Plan("identity", "plain", outputs=[0, 1, 0])
    plan.buffers.append(BufferSpec(8, "float32", (2,), "input", 0))
    data = np.array([7, 8], "float32").tobytes()
    plan.buffers.append(BufferSpec(8, "float32", (2,), "constant", data=data))
    plan.inputs.append(InputSpec((2,), "float32", False, 0))
    program = Program(plan)
    given = floats([1, 2])
    results = program.run([given])
    assert [array(result, 2).tolist() for result in results] == [[1, 2], [7, 8], [1, 2]]
    assert len({given.address} | {result.address for result in results}) == 4


def test_one_buffer_as_two_outputs_comes_out_twice():
    plan = plans.chain(3)
    plan.outputs *= 2
    first, second = Program(plan).run([floats([1, 2, 3]), floats([1, 1, 1])])
    assert array(first, 3).tolist() == array(second, 3).tolist() == [3, 4, 5]
    assert first.address != second.address


def test_scratch_is_private_aligned_and_large_enough():
    """Each chunk fills its scratch, then sums it: a shared scratch would give other sums."""
    text = """
define void @fill(ptr %slots, i64 %begin, i64 %end, ptr %scratch) nounwind {
entry:
  %out = load ptr, ptr %slots
  br label %unit
unit:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %unit.end ]
  br label %write
write:
  %k = phi i64 [ 0, %unit ], [ %k.next, %write ]
  %w = getelementptr i64, ptr %scratch, i64 %k
  store i64 %i, ptr %w
  %k.next = add i64 %k, 1
  %k.more = icmp slt i64 %k.next, 1000
  br i1 %k.more, label %write, label %read
read:
  %j = phi i64 [ 0, %write ], [ %j.next, %read ]
  %sum = phi i64 [ 0, %write ], [ %sum.next, %read ]
  %r = getelementptr i64, ptr %scratch, i64 %j
  %v = load volatile i64, ptr %r
  %sum.next = add i64 %sum, %v
  %j.next = add i64 %j, 1
  %j.more = icmp slt i64 %j.next, 1000
  br i1 %j.more, label %read, label %unit.end
unit.end:
  %address = ptrtoint ptr %scratch to i64
  %low = and i64 %address, 63
  %total = add i64 %sum.next, %low
  %o = getelementptr i64, ptr %out, i64 %i
  store i64 %total, ptr %o
  %i.next = add i64 %i, 1
  %i.more = icmp slt i64 %i.next, %end
  br i1 %i.more, label %unit, label %done
done:
  ret void
}
"""
    plan = Plan("scratch", "plain", kernels={"fill": Kernel("fill", text, scratch=8000)})
    plan.buffers.append(BufferSpec(8 * 500, "int64", (500,), "output", 0))
    arguments = (Argument("buffer", 0, written=True),)
    plan.launches.append(Launch("fill", arguments, 500, flops=10**9))
    plan.outputs.append(0)
    program = Program(plan)
    for settings.threads in (1, 3):
        (result,) = program.run([])
        assert (result.as_numpy(dtype.int64, (500,)) == np.arange(500) * 1000).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(2.5, 2.5), (3, 3.0), (True, 1.0), (1e300, np.inf), (-1e300, -np.inf), (1e-50, 0.0)],
)
def test_a_float_scalar_rounds_to_its_type(value, expected):
    (result,) = Program(plans.scaling(1)).run([floats([1]), value])
    assert array(result, 1)[0] == expected


SCALARS = [0, 1, -1, 3, 200, 40_000, -5_000_000_000, 2**63 - 1, 2**64 - 1]


@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int32", "int64", "uint32", "uint64"])
@pytest.mark.parametrize("value", SCALARS)
def test_integer_scalars_wrap_and_extend(name, value):
    kind = dtype.by_name(name)
    wrapped = np.array(value % 2 ** (8 * kind.itemsize), f"uint{8 * kind.itemsize}")
    expected = int(wrapped.view(kind.storage))
    assert scalar_bits(value, name) == expected % 2**64


FLOATS = [0.0, -0.0, 1.0, 1 / 3, 1e-45, 65519.0, 65520.0, 3.4e38, 1e39, -1e39]
FLOATS += [float("inf"), float("nan"), 1.00390625, 1.01171875]


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("value", FLOATS)
def test_float_scalars_have_the_bits_that_pytorch_gives(name, value):
    kind = dtype.by_name(name)
    expected = torch.tensor(value, dtype=torch.float64).to(torch.float32).to(getattr(torch, name))
    if name == "float64":
        expected = torch.tensor(value, dtype=torch.float64)
    if name == "float16":  # straight from the double, as a single rounding
        expected = torch.tensor(value, dtype=torch.float64).to(torch.float16)
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[kind.itemsize]
    bits = scalar_bits(value, name)
    if value != value:
        width = 8 * kind.itemsize
        back = torch.tensor(bits - (bits >> (width - 1) << width), dtype=integer)
        assert torch.isnan(back.view(getattr(torch, name)))
    else:
        assert bits == int(expected.view(integer)) % 2 ** (8 * kind.itemsize)


def test_a_bool_scalar_is_zero_or_one():
    assert [scalar_bits(value, "bool") for value in (0, 1, 5, False, 0.5)] == [0, 1, 1, 0, 1]


@pytest.mark.parametrize("kind", dtype.ALL[:12], ids=lambda kind: kind.name)
def test_the_short_way_writes_the_same_slots_as_the_careful_one(kind):
    """A kernel that copies its slot shows what a call wrote there."""
    text = """
define void @show(ptr %slots, i64 %begin, i64 %end, ptr %scratch) nounwind {
  %out = load ptr, ptr %slots
  %s = getelementptr i64, ptr %slots, i64 1
  %v = load i64, ptr %s
  store i64 %v, ptr %out
  ret void
}
"""
    plan = Plan("show", "plain", kernels={"show": Kernel("show", text)}, outputs=[0])
    plan.buffers.append(BufferSpec(8, "int64", (), "output", 0))
    plan.inputs.append(InputSpec((), kind.name, True))
    arguments = (Argument("buffer", 0, written=True), Argument("scalar", 0))
    plan.launches.append(Launch("show", arguments, 1))
    program = Program(plan)
    for value in (0, 1, 7, -3, 2.5, True, 1e39, 255):
        (result,) = program.run([value])
        mask = 2 ** (8 * kind.itemsize) - 1  # a kernel reads the low bits, at its own width
        slot = struct.unpack("<Q", result.tobytes())[0]
        assert slot & mask == scalar_bits(value, kind.name) & mask


def test_a_donated_input_becomes_the_output():
    program = Program(plans.scaling(3))
    given = floats([1, 2, 3])
    (result,) = program.run([given, 2.0], donated={0})
    assert result is given
    assert array(result, 3).tolist() == [2, 4, 6]


def test_an_input_that_is_not_donated_or_pinned_stays():
    program = Program(plans.scaling(3))
    given = floats([1, 2, 3])
    assert program.run([given, 2.0])[0] is not given
    view = given.as_numpy(dtype.float32, (3,))
    assert program.run([given, 2.0], donated=[0])[0] is not given
    assert view.tolist() == [1, 2, 3]


def test_a_buffer_given_twice_is_not_donated():
    plan = plans.chain(3, links=1)
    plan.donations.append((0, 0))
    program = Program(plan)
    given = floats([1, 2, 3])
    assert program.run([given, given], donated={0})[0] is not given
    other = floats([1, 1, 1])
    assert program.run([given, other], donated={0})[0] is given


@pytest.mark.parametrize("donated", [(), (0,)])
def test_a_failed_check_raises_and_changes_nothing(donated):
    program = Program(plans.checked(4))
    labels = Buffer.from_numpy(np.array([1, 2, 33, 4]))
    given = floats([1, 2, 3, 4])
    for _ in range(2):
        with pytest.raises(IndexOutOfRange, match=r"label 33 is not below 10.*train.py:7"):
            program.run([given, 2.0, labels], donated)
        assert array(given, 4).tolist() == [1, 2, 3, 4]
    good = Buffer.from_numpy(np.array([1, 2, 3, 4]))
    assert array(program.run([given, 2.0, good], donated)[0], 4).tolist() == [2, 4, 6, 8]


def test_wrong_inputs_are_explained():
    program = Program(plans.scaling(3))
    with pytest.raises(ValueError, match="takes 2 inputs, got 1"):
        program.run([floats([1, 2, 3])])
    with pytest.raises(TypeError, match="input 1 of scaling is a number, got Buffer"):
        program.run([floats([1, 2, 3]), floats([1])])
    with pytest.raises(TypeError, match="input 0 of scaling is a buffer, got 2.0"):
        program.run([2.0, 2.0])
    with pytest.raises(ValueError, match=r"input 0 of scaling is \(3,\) of float32 and needs 12"):
        program.run([floats([1]), 2.0])


def broken(change):
    plan = plans.chain(3)
    change(plan)
    return plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.kernels.clear(), "launches add, which it lacks"),
        (lambda plan: plan.launches.clear(), "no launch writes output buffer 3"),
        (lambda plan: plan.outputs.append(2), "output buffer 2 is declared a temporary"),
        (lambda plan: plan.outputs.clear(), "declared an output and is none"),
        (
            lambda plan: plan.buffers.append(BufferSpec(3, "uint8", (3,), "constant")),
            "constant 4 holds 0 bytes",
        ),
        (
            lambda plan: plan.launches.append(Launch("add", (Argument("status", 0),), 1)),
            "status but no check",
        ),
        (
            lambda plan: plan.launches.append(Launch("add", (Argument("buffer", 9),), 1)),
            "names buffer 9",
        ),
        (
            lambda plan: plan.launches.append(Launch("add", (Argument("scalar", 0),), 1)),
            "input 0 is no scalar",
        ),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Program(broken(change))


def test_calls_from_many_threads_do_not_meet():
    program = Program(plans.chain(3000, 4))
    settings.threads = 2
    wrong = []

    def work(mark):
        a, b = floats(np.full(3000, mark)), floats(np.arange(3000))
        expected = mark + 4 * np.arange(3000, dtype="float32")
        for _ in range(100):
            program._nanoseconds = program._before = 10**6  # half of them with the workers
            if not (array(program.run([a, b])[0], 3000) == expected).all():
                wrong.append(mark)

    callers = [threading.Thread(target=work, args=(mark,)) for mark in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_program_prints_what_it_will_do():
    text = str(Program(plans.checked(4)))
    assert "program scaling, tier plain: 2 launches of 2 kernels" in text
    assert "0 check(input 2, status) x 4" in text
    assert "1 scale(input 0, -> output 0, input 1) x 4" in text
    assert "# a * s, user.py:3" in text
    assert "input 1: float32[]" in text
    assert "check: [cross_entropy] label {value} is not below 10  # train.py:7" in text
    chain = str(Program(plans.chain(100, 3)))
    assert "temporaries 800 B in an arena of 896 B" in chain
    assert "group 2" in chain


def test_a_profile_times_every_launch():
    profile = Program(plans.checked(1000)).profile(
        [floats(np.ones(1000)), 2.0, Buffer.from_numpy(np.zeros(1000, "int64"))]
    )
    assert [timing.launch.kernel for timing in profile.timings] == ["check", "scale"]
    assert profile.seconds > 0
    text = str(profile)
    assert text.startswith("scaling: ")
    assert "scale x 1000  # a * s" in text
    chain = Program(plans.chain(1000)).profile([floats(np.ones(1000))] * 2)
    assert all(timing.gigaflops > 0 for timing in chain.timings)


def test_a_profile_refuses_what_a_call_refuses():
    labels = Buffer.from_numpy(np.full(4, 99))
    with pytest.raises(IndexOutOfRange, match="label 99"):
        Program(plans.checked(4)).profile([floats([1, 2, 3, 4]), 2.0, labels])


def test_kernels_can_be_read():
    kernel = Program(plans.chain(3)).kernels["add"]
    assert "define void @add" in kernel.text
    assert "add:" in kernel.assembly
    assert kernel.loops == ""


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_each_unit_is_done_exactly_once(threads):
    """The kernel counts in its input how often each unit came by."""
    text = """
define void @count(ptr %slots, i64 %begin, i64 %end, ptr %scratch) nounwind {
entry:
  %counts = load ptr, ptr %slots
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %e = getelementptr i64, ptr %counts, i64 %i
  %old = atomicrmw add ptr %e, i64 1 monotonic
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""
    plan = Plan("count", "plain", kernels={"count": Kernel("count", text)})
    settings.threads = threads
    for position, work in enumerate((1, 2, 3, 5, 12, 13, 100, 1001)):
        plan.buffers.append(BufferSpec(8 * work, "int64", (work,), "input", position))
        plan.inputs.append(InputSpec((work,), "int64", False, position))
        arguments = (Argument("buffer", position),)
        plan.launches.append(Launch("count", arguments, work, flops=10**7))
    program = Program(plan)
    inputs = [Buffer.from_numpy(np.zeros(spec.shape, "int64")) for spec in plan.inputs]
    for _ in range(20):
        program._nanoseconds = program._before = 10**7
        program.run(inputs)
    for given, spec in zip(inputs, plan.inputs, strict=True):
        assert (given.as_numpy(dtype.int64, spec.shape) == 20).all()


def test_sharing_gains_what_can_be_cut():
    def plan_of(*works):
        plan = Plan("gain", "plain")
        plan.launches = [Launch("k", (), work, flops=10**8) for work in works]
        return plan

    assert shared_gain(plan_of(1, 1), 2) == 0
    assert shared_gain(plan_of(1000), 1) == 0
    assert shared_gain(plan_of(1200), 2) == pytest.approx(0.5)
    assert shared_gain(plan_of(1, 1200), 4) == pytest.approx(0.375)
    assert shared_gain(plan_of(0), 4) == 0
    assert shared_gain(plan_of(), 4) == 0


@pytest.mark.parametrize("work", [1, 7, 100, 10**6])
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("flops", [0, 1000, 10**9])
def test_chunks_cover_the_work_with_a_few_for_each_thread(work, threads, flops):
    chunk = chunk_units(Launch("k", (), work, flops=flops), threads)
    assert 1 <= chunk <= work
    assert -(-work // chunk) <= 16 * threads
    if flops == 1000:
        assert chunk == work


@pytest.mark.parametrize(("work", "threads"), [(25, 2), (40, 2), (72, 2), (100, 4), (1225, 2)])
def test_chunks_leave_the_threads_about_equal_shares(work, threads):
    chunk = chunk_units(Launch("k", (), work, flops=10**9), threads)
    chunks = -(-work // chunk)
    assert -(-chunks // threads) * chunk <= 1.05 * -(-work // threads)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_chunks_are_larger_where_beginning_one_takes_long(threads):
    quick = chunk_units(Launch("k", (), 64, flops=64 * 10**6), threads)
    slow = chunk_units(Launch("k", (), 64, flops=64 * 10**6, begin=10**6 // 2), threads)
    assert quick < slow <= 64 // (2 * threads)
    chunks = -(-64 // slow)
    assert -(-chunks // threads) * slow <= 1.05 * 64 / threads
    few = chunk_units(Launch("k", (), threads, flops=10**9, begin=10**8), threads)
    assert few == 1


def test_spare_memory_holds_the_output_unless_something_needs_it():
    program = Program(plans.scaling(3))
    given, spare, small = floats([1, 2, 3]), floats([7, 8, 9]), floats([7])
    (result,) = program.run([given, 2.0], spare={0: spare})
    assert result is spare
    assert array(spare, 3).tolist() == [2, 4, 6]
    for taken in (small, given):
        assert program.run([given, 2.0], spare={0: taken})[0] is not taken
    view = spare.as_numpy(dtype.float32, (3,))
    assert program.run([given, 3.0], spare={0: spare})[0] is not spare
    assert view.tolist() == [2, 4, 6]


def test_a_failed_check_leaves_spare_memory():
    program = Program(plans.checked(4))
    given, spare = floats([1, 2, 3, 4]), floats([5, 6, 7, 8])
    with pytest.raises(IndexOutOfRange):
        program.run([given, 2.0, Buffer.from_numpy(np.array([1, 2, 33, 4]))], spare={0: spare})
    assert array(spare, 4).tolist() == [5, 6, 7, 8]
