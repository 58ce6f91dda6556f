"""Hand-written plans for the tests of the runtime."""

from __future__ import annotations

from avalon.runtime.plan import Argument, BufferSpec, CheckSpec, InputSpec, Kernel, Launch, Plan


def loop_kernel(symbol: str, pointers: int, body: str, scalar: str = "") -> Kernel:
    """A kernel over float32 elements: %x0.. are loaded from the first pointers, the last is stored
    with %y. A scalar, if named by its LLVM type, is the slot after the pointers: %s.
    """
    lines = [f"define void @{symbol}(ptr %slots, i64 %begin, i64 %end, ptr %scratch) nounwind {{"]
    lines.append("entry:")
    for number in range(pointers):
        lines.append(f"  %a{number} = getelementptr i64, ptr %slots, i64 {number}")
        lines.append(f"  %p{number} = load ptr, ptr %a{number}")
    if scalar:
        lines.append(f"  %as = getelementptr i64, ptr %slots, i64 {pointers}")
        lines.append(f"  %s = load {scalar}, ptr %as")
    lines += ["  br label %loop", "loop:", "  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]"]
    for number in range(pointers):
        lines.append(f"  %e{number} = getelementptr float, ptr %p{number}, i64 %i")
        if number < pointers - 1:
            lines.append(f"  %x{number} = load float, ptr %e{number}")
    lines.append(body)
    lines.append(f"  store float %y, ptr %e{pointers - 1}")
    lines += ["  %next = add i64 %i, 1", "  %more = icmp slt i64 %next, %end"]
    lines += ["  br i1 %more, label %loop, label %done", "done:", "  ret void", "}"]
    return Kernel(symbol, "\n".join(lines))


ADD = loop_kernel("add", 3, "  %y = fadd float %x0, %x1")
SCALE = loop_kernel("scale", 2, "  %y = fmul float %x0, %s", "float")
CHECK = Kernel(
    "check",
    """
define void @check(ptr %slots, i64 %begin, i64 %end, ptr %scratch) nounwind {
entry:
  %p = load ptr, ptr %slots
  %s.at = getelementptr i64, ptr %slots, i64 1
  %status = load ptr, ptr %s.at
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %continue ]
  %e = getelementptr i64, ptr %p, i64 %i
  %x = load i64, ptr %e
  %bad = icmp uge i64 %x, 10
  br i1 %bad, label %fail, label %continue
fail:
  store i64 1, ptr %status
  %v = getelementptr i64, ptr %status, i64 1
  store i64 %x, ptr %v
  br label %continue
continue:
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
""",
)


def buffer(number: int, written: bool = False) -> Argument:
    return Argument("buffer", number, written)


def chain(count: int, links: int = 2) -> Plan:
    """((a + b) + b) ...: `links` additions of vectors, through temporaries."""
    nbytes = 4 * count
    plan = Plan("chain", "plain", kernels={"add": ADD})
    for position in range(2):
        plan.buffers.append(BufferSpec(nbytes, "float32", (count,), "input", position))
        plan.inputs.append(InputSpec((count,), "float32", False, position))
    source = 0
    for link in range(links):
        last = link == links - 1
        target = len(plan.buffers)
        role, position = ("output", 0) if last else ("temporary", -1)
        plan.buffers.append(BufferSpec(nbytes, "float32", (count,), role, position))
        arguments = (buffer(source), buffer(1), buffer(target, written=True))
        plan.launches.append(
            Launch("add", arguments, count, flops=count, bytes=12 * count, note="a + b")
        )
        source = target
    plan.outputs.append(source)
    return plan


def scaling(count: int) -> Plan:
    """a * s with a scalar s; the output may take a's memory."""
    plan = Plan("scaling", "plain", kernels={"scale": SCALE}, donations=[(0, 0)])
    plan.buffers.append(BufferSpec(4 * count, "float32", (count,), "input", 0))
    plan.buffers.append(BufferSpec(4 * count, "float32", (count,), "output", 0))
    plan.inputs += [InputSpec((count,), "float32", False, 0), InputSpec((), "float32", True)]
    arguments = (buffer(0), buffer(1, written=True), Argument("scalar", 1))
    plan.launches.append(Launch("scale", arguments, count, note="a * s", source="user.py:3"))
    plan.outputs.append(1)
    return plan


def checked(count: int) -> Plan:
    """a * s, after a check that all int64 labels are below 10."""
    plan = scaling(count)
    plan.kernels["check"] = CHECK
    plan.buffers.append(BufferSpec(8 * count, "int64", (count,), "input", 2))
    plan.inputs.append(InputSpec((count,), "int64", False, 2))
    plan.checks.append(CheckSpec("[cross_entropy] label {value} is not below 10", "train.py:7"))
    arguments = (buffer(2), Argument("status", 0))
    plan.launches.insert(0, Launch("check", arguments, count, note="labels in range"))
    return plan
