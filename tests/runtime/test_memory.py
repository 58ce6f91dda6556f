"""The memory plan: lifetimes, barriers and donations, on plans drawn at random."""

from __future__ import annotations

from hypothesis import given, strategies as st

from avalon.runtime import memory
from avalon.runtime.plan import Argument, BufferSpec, InputSpec, Launch, Plan


@st.composite
def plans(draw):
    """A plan over one input, some temporaries and one output; kernels are irrelevant here."""
    plan = Plan("random", "plain")
    plan.buffers.append(BufferSpec(64, "uint8", (64,), "input", 0))
    plan.inputs.append(InputSpec((64,), "uint8", False, 0))
    known = [0]
    for _ in range(draw(st.integers(1, 12))):
        nbytes = draw(st.sampled_from([0, 1, 64, 100, 128, 1000]))
        target = len(plan.buffers)
        plan.buffers.append(BufferSpec(nbytes, "uint8", (nbytes,), "temporary"))
        sources = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        arguments = [Argument("buffer", source) for source in sources]
        if draw(st.booleans()):
            arguments.append(Argument("status", 0))
        plan.launches.append(Launch("k", (*arguments, Argument("buffer", target, written=True)), 1))
        known.append(target)
    target = len(plan.buffers)
    plan.buffers.append(BufferSpec(64, "uint8", (64,), "output", 0))
    source = Argument("buffer", draw(st.sampled_from(known)))
    plan.launches.append(Launch("k", (source, Argument("buffer", target, written=True)), 1))
    plan.outputs.append(target)
    plan.donations.append((0, 0))
    return plan


def touched(plan, launch):
    return [(a.value, a.written) for a in plan.launches[launch].arguments if a.kind == "buffer"]


@given(plans())
def test_temporaries_that_live_together_lie_apart(plan):
    arena = memory.plan_arena(plan)
    lives = {}
    for number, _ in enumerate(plan.launches):
        for buffer, _ in touched(plan, number):
            if plan.buffers[buffer].role == "temporary":
                lives[buffer] = (lives.get(buffer, (number,))[0], number)
    assert set(arena.offsets) == set(lives)
    for one, (first, last) in lives.items():
        start, size = arena.offsets[one], plan.buffers[one].nbytes
        assert start % 64 == 0
        assert start + size <= arena.nbytes
        for other, (other_first, other_last) in lives.items():
            together = first <= other_last and other_first <= last
            if one < other and together and size and plan.buffers[other].nbytes:
                other_start = arena.offsets[other]
                other_end = other_start + plan.buffers[other].nbytes
                assert start + size <= other_start or other_end <= start


@given(plans())
def test_the_arena_is_no_larger_than_its_temporaries(plan):
    total = sum(memory.align(b.nbytes) for b in plan.buffers if b.role == "temporary")
    assert memory.plan_arena(plan).nbytes <= total


@given(plans())
def test_launches_of_a_group_touch_nothing_that_another_writes(plan):
    arena = memory.plan_arena(plan)
    groups = memory.group_launches(plan, arena, plan.donations)

    def span(buffer):
        if buffer in arena.offsets:
            start = arena.offsets[buffer]
            return set(range(start, start + plan.buffers[buffer].nbytes))
        # the donated input and the output are one memory
        return {-1} if plan.buffers[buffer].role in ("input", "output") else set()

    assert groups == sorted(groups)
    assert set(groups) == set(range(groups[-1] + 1))
    for one, _ in enumerate(groups):
        for other in range(one):
            if groups[one] != groups[other]:
                continue
            for buffer, written in touched(plan, one):
                for other_buffer, other_written in touched(plan, other):
                    if written or other_written:
                        assert not span(buffer) & span(other_buffer)


def test_a_chain_of_equal_temporaries_needs_two_places():
    plan = Plan("chain", "plain")
    plan.buffers = [BufferSpec(100, "uint8", (100,), "temporary") for _ in range(9)]
    for number in range(8):
        arguments = (Argument("buffer", number), Argument("buffer", number + 1, written=True))
        plan.launches.append(Launch("k", arguments, 1))
    assert memory.plan_arena(plan).nbytes == 256
    assert memory.group_launches(plan, memory.plan_arena(plan), ()) == list(range(8))


def test_independent_launches_share_a_group():
    plan = Plan("wide", "plain")
    plan.buffers = [BufferSpec(64, "uint8", (64,), "temporary") for _ in range(5)]
    for number in range(1, 5):
        arguments = (Argument("buffer", 0), Argument("buffer", number, written=True))
        plan.launches.append(Launch("k", arguments, 1))
    plan.launches.append(Launch("k", tuple(Argument("buffer", n) for n in range(1, 5)), 1))
    assert memory.group_launches(plan, memory.plan_arena(plan), ()) == [0, 0, 0, 0, 1]


def donating(*launches):
    plan = Plan("update", "plain", donations=[(0, 0)], outputs=[1])
    plan.buffers = [
        BufferSpec(64, "uint8", (64,), "input", 0),
        BufferSpec(64, "uint8", (64,), "output", 0),
        BufferSpec(64, "uint8", (64,), "temporary"),
    ]
    plan.inputs = [InputSpec((64,), "uint8", False, 0)]
    plan.launches = [Launch("k", arguments, 1) for arguments in launches]
    return plan


READ, WRITE = Argument("buffer", 0), Argument("buffer", 1, written=True)
CHECK = Argument("status", 0)


def test_an_input_is_donated_when_its_last_reader_writes_the_output():
    assert memory.safe_donations(donating((READ, WRITE))) == [(0, 0)]


def test_an_input_that_is_read_later_is_not_donated():
    later = (READ, Argument("buffer", 2, written=True))
    assert memory.safe_donations(donating((READ, WRITE), later)) == []


def test_a_check_comes_before_the_first_donation_or_there_is_none():
    assert memory.safe_donations(donating((READ, WRITE), (CHECK,))) == []
    assert memory.safe_donations(donating((READ, WRITE, CHECK))) == []
    plan = donating((CHECK,), (READ, WRITE))
    assert memory.safe_donations(plan) == [(0, 0)]
    assert memory.group_launches(plan, memory.plan_arena(plan), [(0, 0)]) == [0, 1]
    assert memory.group_launches(plan, memory.plan_arena(plan), []) == [0, 0]


def test_an_input_that_is_put_out_as_it_is_is_not_donated():
    plan = donating((READ, WRITE))
    plan.outputs.append(0)
    assert memory.safe_donations(plan) == []


def test_an_update_waits_for_the_last_reader_of_the_old_value():
    later = (READ, Argument("buffer", 2, written=True))
    plan = donating((READ, WRITE), later)
    update = plan.launches[0]
    memory.delay_updates(plan)
    assert plan.launches[1] is update
    assert memory.safe_donations(plan) == [(0, 0)]


def test_an_update_does_not_wait_for_what_needs_it():
    needs = (READ, Argument("buffer", 1), Argument("buffer", 2, written=True))
    plan = donating((READ, WRITE), needs)
    launches = list(plan.launches)
    memory.delay_updates(plan)
    assert plan.launches == launches
    assert memory.safe_donations(plan) == []


def test_windows_of_one_result_need_no_barrier_between_them():
    plan = Plan("windows", "plain")
    plan.buffers += [BufferSpec(64, "uint8", (64,), "input", 0)]
    plan.buffers += [BufferSpec(128, "uint8", (128,), "output", 0)]
    copy = (Argument("buffer", 0), Argument("buffer", 1, written=True))
    plan.inputs.append(InputSpec((64,), "uint8", False, 0))
    plan.outputs.append(1)
    plan.launches += [Launch("k", copy, 1, window=True) for _ in range(3)]
    plan.launches += [Launch("k", copy, 1), Launch("k", copy, 1, window=True)]
    arena = memory.plan_arena(plan)
    assert memory.group_launches(plan, arena, []) == [0, 0, 0, 1, 2]
