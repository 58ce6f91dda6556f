"""The native driver's texts for loops: where a thread goes on, and what moves on with the rounds.

Comes in: a mark or a launch, and the thread's own state (`driver_tables`). Goes out: bodies of the
driver's LLVM functions (`driver` names them). `TURN` says where to go on after the mark of a loop;
`PLACE` gives a launch its slots in this round. Guaranteed: a thread changes nothing but its own
state, and the visits it counts are the same for all threads, however late one of them comes.
"""

from __future__ import annotations

from avalon.runtime.driver_tables import (
    ADVANCE_DEPTH,
    ADVANCE_MODE,
    ADVANCE_SLOT,
    ADVANCE_STRIDE,
    ADVANCE_WORDS,
    BACKWARD,
    BEGIN,
    LAUNCH_ADVANCE_COUNT,
    LAUNCH_ADVANCES,
    LAUNCH_DEPTH,
    LAUNCH_KIND,
    LAUNCH_SLOT_COUNT,
    LAUNCH_SLOTS,
    LAUNCH_TARGET,
    LAUNCH_WORK,
    NEXT,
    NOW,
    STATE_ROUNDS,
    STATE_SLOTS,
    STATE_VISIT,
)
from avalon.runtime.driver_text import at, get, repeat

# Where a thread goes on after the mark of a loop: into its next round, or past it.
TURN = f"""
{get("kind", "%record", LAUNCH_KIND)}
{get("depth", "%record", LAUNCH_DEPTH)}
{get("fixed", "%record", LAUNCH_WORK)}
{get("slots", "%record", LAUNCH_SLOTS, "ptr")}
{get("target", "%record", LAUNCH_TARGET)}
{get("visit", "%state", STATE_VISIT)}
  %pair = shl i64 %depth, 1
  %place = add i64 %pair, {STATE_ROUNDS}
  %round.at = getelementptr i64, ptr %state, i64 %place
  %count.at = getelementptr i64, ptr %round.at, i64 1
  %following = add i64 %index, 1
  %is.fixed = icmp eq ptr %slots, null
  br i1 %is.fixed, label %counted, label %look
look:
  %word = load ptr, ptr %slots
  %found = load atomic i64, ptr %word monotonic, align 8
  br label %counted
counted:
  %count = phi i64 [ %fixed, %entry ], [ %found, %look ]
  %begins = icmp eq i64 %kind, {BEGIN}
  br i1 %begins, label %begin, label %end
begin:
  store i64 0, ptr %round.at
  store i64 %count, ptr %count.at
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %enter, label %skip
enter:
  %deeper = mul i64 %visit, %count
  store i64 %deeper, ptr %visit.at
  ret i64 %following
skip:
  ret i64 %target
end:
  %round = load i64, ptr %round.at
  %next = add i64 %round, 1
  store i64 %next, ptr %round.at
  %more = icmp slt i64 %next, %count
  br i1 %more, label %again, label %leave
again:
  %visit.next = add i64 %visit, 1
  store i64 %visit.next, ptr %visit.at
  ret i64 %target
leave:
  %outer = sdiv i64 %visit, %count
  store i64 %outer, ptr %visit.at
  ret i64 %following
"""

_COPY_SLOTS = repeat(
    "copy", "c", "%slot.count", before="moving", after="move",
    body=f"""\
{get("c.word", "%slots", "%c")}
{at("c.target", "%own", "%c")}
  store i64 %c.word, ptr %c.target""",
)  # fmt: skip

_MOVE_SLOTS = repeat(
    "move", "a", "%count", before="copy", after="done",
    body=f"""\
  %a.first = mul i64 %a, {ADVANCE_WORDS}
  %a.record = getelementptr i64, ptr %advances, i64 %a.first
{get("a.slot", "%a.record", ADVANCE_SLOT)}
{get("a.depth", "%a.record", ADVANCE_DEPTH)}
{get("a.mode", "%a.record", ADVANCE_MODE)}
{get("a.stride", "%a.record", ADVANCE_STRIDE)}
  %a.pair = shl i64 %a.depth, 1
  %a.place = add i64 %a.pair, {STATE_ROUNDS}
  %a.round.at = getelementptr i64, ptr %state, i64 %a.place
  %a.round = load i64, ptr %a.round.at
{get("a.count", "%a.round.at", 1)}
  %a.following = add i64 %a.round, 1
  %a.left = sub i64 %a.count, %a.following
  %a.now = and i64 %a.round, 1
  %a.then = and i64 %a.following, 1
  %a.is.backward = icmp eq i64 %a.mode, {BACKWARD}
  %a.is.now = icmp eq i64 %a.mode, {NOW}
  %a.is.next = icmp eq i64 %a.mode, {NEXT}
  %a.first.choice = select i1 %a.is.backward, i64 %a.left, i64 %a.round
  %a.second.choice = select i1 %a.is.now, i64 %a.now, i64 %a.first.choice
  %a.factor = select i1 %a.is.next, i64 %a.then, i64 %a.second.choice
  %a.offset = mul i64 %a.factor, %a.stride
{get("a.word", "%own", "%a.slot")}
  %a.moved = add i64 %a.word, %a.offset
  store i64 %a.moved, ptr %a.word.at""",
)  # fmt: skip

# The slots of a launch as they are in this round: its own, or a copy that has moved on.
PLACE = f"""
{get("slots", "%record", LAUNCH_SLOTS, "ptr")}
{get("count", "%record", LAUNCH_ADVANCE_COUNT)}
  %none = icmp eq i64 %count, 0
  br i1 %none, label %fixed, label %moving
fixed:
  ret ptr %slots
moving:
{get("slot.count", "%record", LAUNCH_SLOT_COUNT)}
{get("advances", "%record", LAUNCH_ADVANCES, "ptr")}
{at("own", "%state", STATE_SLOTS)}
  br label %copy
{_COPY_SLOTS}
{_MOVE_SLOTS}
done:
  ret ptr %own
"""
