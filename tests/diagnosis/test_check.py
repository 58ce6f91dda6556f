"""`av.check`: sound steps agree and nothing changes; planted faults are found and named."""

import re
from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import compiler, dtype as dtypes, nn, ops, rewrite
from avalon.codegen import assemble
from avalon.errors import TraceError
from avalon.functions import attention_blocks
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input
from avalon.graph.primitive import Elementwise, Movement, Reduction
from avalon.runtime import cache, program as runtime_program
from avalon.schedule import calls, concatenation, epilogue, fusion, hot, pull, split
from avalon.schedule.loops import Apply
from avalon.tensor import Tensor
from avalon.tracing.values import record
from tests.rewrite.test_rules import RULES as EXAMPLES


@pytest.fixture(autouse=True)
def own_cache(tmp_path):
    """Planted faults must not reach the programs on disk."""
    before, av.settings.cache = av.settings.cache, tmp_path
    yield
    av.settings.cache = before


def network():
    av.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.25),
        nn.Linear(144, 10),
    )  # fmt: skip


def training(net):
    optimizer = av.optim.Adam(net.parameters(), lr=1e-2)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, optimizer


def batch():
    return av.rand(5, 1, 8, 8), av.randint(0, 10, (5,))


# --- sound steps --------------------------------------------------------------------------------


def state_of(net, optimizer):
    parts = [*net.state_dict().values(), *(p.grad for p in net.parameters())]
    for state in optimizer.state.values():
        parts.extend(value for value in state.values() if isinstance(value, Tensor))
    arrays = [None if part is None else part.detach().numpy().tobytes() for part in parts]
    return arrays, len(optimizer.state), av.random.default_generator.offset, net.training


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_step_agrees_and_nothing_changes(steps, compiled):
    net = network()
    step, optimizer = training(net)
    run = av.compile(step) if compiled else step
    x, y = batch()
    for _ in range(steps):
        run(x, y)
    before = state_of(net, optimizer)
    report = av.check(run, x, y)
    assert report, report
    assert report.compared[-1] == "finite differences"
    assert state_of(net, optimizer) == before
    first = [run(x, y).item() for _ in range(3)]
    assert all(np.isfinite(first))


def test_checking_changes_no_bit_of_the_training_after_it():
    def losses(check):
        net = network()
        step, _ = training(net)
        x, y = batch()
        found = [step(x, y).item()]
        if check:
            assert av.check(step, x, y)
        return found + [step(x, y).item() for _ in range(3)]

    assert losses(True) == losses(False)


def test_functions_of_every_form():
    assert av.check(lambda x: {"a": x * 2, "b": [x.sum(), 3]}, av.ones(3))
    assert av.check(lambda x, scale: (x * scale).sum(), np.ones((2, 3), np.float32), scale=2.5)
    assert not av.check(lambda: 7).findings
    assert av.check(lambda x: (x.half().exp() + x.bfloat16().tanh()).sum(), av.rand(20))
    assert av.check(lambda x: F.relu(x).sum(), av.zeros(3))  # a kink


def test_gradients_of_arguments_are_compared():
    report = av.check(lambda w, x: ((w["a"] * x) ** 2).sum(), {"a": av.rand(3)}, av.rand(3))
    assert report
    assert "finite differences" in report.compared


def test_a_wrong_gradient_is_named():
    @av.custom_gradient
    def wrong(x):
        return x * 3, lambda g: g * 2

    net = nn.Linear(3, 2)
    report = av.check(lambda x: wrong(net(x)).sum() + net.bias.sum(), av.rand(4, 3))
    assert not report
    assert {finding.what for finding in report.findings} == {"net.weight", "net.bias"}
    assert "finite differences" in str(report)


def test_asking_for_a_value_is_refused_with_a_remedy():
    with pytest.raises(TraceError, match=r"\[check\] .*\.item\(\)"):
        av.check(lambda x: x.sum().item(), av.ones(3))


# --- planted faults -----------------------------------------------------------------------------


def as_step(make, dtype):
    """A step of tensors that makes the calls of an example of a rule."""

    def step(x, y, c):
        graph = Graph()
        a, b = (graph.input((9,), dtype) for _ in range(2))
        condition = graph.input((9,), dtypes.bool_)
        made = make(a, b, condition)
        given = iter([x.value(), y.value(), c.value()])
        values = {}
        for node in graph.nodes:
            if isinstance(node, Input):
                values[node] = next(given)
            elif isinstance(node, Constant):
                values[node] = x.value().constant(node.value, node.shape, node.dtype)
            else:
                operands = [values[operand] for operand in node.operands]
                values[node] = record(node.primitive, operands, node.parameters)
        return Tensor._make(values[made])

    return step


def spoiled(node):
    """Another value of the same type."""
    if isinstance(node, Constant):  # a sum of constants would be folded, and spoiled, for ever
        return node.constant(node.value + 1)
    if node.dtype is dtypes.bool_:
        return ops.logical_not(node)
    return ops.add(node, node.constant(1, node.shape, node.dtype))


@pytest.mark.parametrize("rule", [rule.name for rule in rewrite.RULES])
def test_a_fault_in_a_rule_is_found_and_named(rule, monkeypatch):
    def plant(sound):
        def apply(call):
            made = sound.apply(call)
            return None if made is None else spoiled(made)

        return sound._replace(apply=apply)

    rules = tuple(plant(one) if one.name == rule else one for one in rewrite.RULES)
    dtype, make, _ = EXAMPLES[rule]
    rng = np.random.default_rng(0)
    x, y = (av.tensor(rng.normal(size=9) * 5).to(dtype) for _ in range(2))
    step, condition = as_step(make, dtype), av.tensor(rng.random(9) < 0.5)
    assert av.check(step, x, y, condition)
    monkeypatch.setattr(compiler, "RULES", rules)
    (finding,) = av.check(step, x, y, condition).findings
    assert (finding.judge, finding.judged) == ("plain", "hot")
    assert finding.culprits == (rule,)


def test_two_faults_at_once_are_both_named(monkeypatch):
    def plant(sound):
        return sound._replace(
            apply=lambda call: made and spoiled(made) if (made := sound.apply(call)) else None
        )

    bad = {"multiply_by_one", "same_twice"}
    rules = tuple(plant(one) if one.name in bad else one for one in rewrite.RULES)
    monkeypatch.setattr(compiler, "RULES", rules)

    def step(x, y, c):
        one = x.value().constant(1.0)
        return Tensor._make(record(ops.multiply, [x.value(), one], {})) + av.maximum(y, y)

    (finding,) = av.check(step, av.rand(9), av.rand(9), None).findings
    assert set(finding.culprits) == bad


def double(value):
    return Apply("add", value.dtype, [value, value], {})


def fault_in_pulling(kind):
    def plant(monkeypatch):
        sound = hot.GroupPuller._value

        def wrong(self, node, coordinates, guards):
            value = sound(self, node, coordinates, guards)
            fused = isinstance(node, Call) and not self.stored(node) and node not in self.members
            ours = fused and node.primitive.kind in kind and node.dtype is dtypes.float32
            return double(value) if ours else value

        monkeypatch.setattr(hot.GroupPuller, "_value", wrong)

    return plant


def fault_in_shared_kernels(monkeypatch):
    sound = hot.HotScheduler.finish

    def wrong(self, pull, stage, node, parallel, check=None, others=()):
        if others:
            for store in stage.stores:
                store.value = double(store.value)
        sound(self, pull, stage, node, parallel, check, others)

    monkeypatch.setattr(hot.HotScheduler, "finish", wrong)


def fault_in_rows(monkeypatch):
    sound = hot.RowPuller.flat

    def wrong(self, node, element, guards):
        value = sound(self, node, element, guards)
        return double(value) if node in self.private else value

    monkeypatch.setattr(hot.RowPuller, "flat", wrong)


def fault_in_epilogues(monkeypatch):
    sound = epilogue._fused

    def wrong(schedule, step, following, result, keeps):
        made = sound(schedule, step, following, result, keeps)
        if made is not None:
            for store in made.step.nest.stages[0].stores:
                store.value = double(store.value)
        return made

    monkeypatch.setattr(epilogue, "_fused", wrong)


def fault_in_short_products(monkeypatch):
    sound = pull.RULES["contract"]
    monkeypatch.setitem(pull.RULES, "contract", lambda *read: double(sound(*read)))


def fault_in_windows(monkeypatch):
    sound = epilogue._fused

    def wrong(schedule, step, following, result, keeps):
        made = sound(schedule, step, following, result, keeps)
        if made is not None and max(made.walk.steps) > 1:
            for store in made.step.nest.stages[0].stores:
                store.value = double(store.value)
        return made

    monkeypatch.setattr(epilogue, "_fused", wrong)


def fault_in_nesting(monkeypatch):
    sound = concatenation._value_in

    def wrong(x, box):
        read = sound(x, box)
        whole = tuple(extent for _, extent in box) == x.shape
        return read if whole else lambda pull, at: double(read(pull, at))

    monkeypatch.setattr(concatenation, "_value_in", wrong)


def fault_in_splitting(monkeypatch):
    sound = hot.HotScheduler.build

    def wrong(self, group, stored, dimensions, part, split, strips=False):
        cut = any(len(dimension.loops) > 1 for dimension in dimensions) and not strips
        before = len(self.schedule.steps)
        sound(self, group, stored, dimensions, part, split, strips)
        for step in self.schedule.steps[before:] if cut else ():
            for store in step.nest.stages[0].stores:
                store.value = double(store.value)

    monkeypatch.setattr(hot.HotScheduler, "build", wrong)


def fault_in_shared_buffers(monkeypatch):
    sound = fusion.Decision._share

    def wrong(self):
        sound(self)
        for node, source in self.aliases.items():
            others = [x for x in self.stored if x.shape == source.shape and x is not source]
            self.aliases[node] = others[0] if others else source

    monkeypatch.setattr(fusion.Decision, "_share", wrong)


def fault_in_narrow_types(monkeypatch):
    monkeypatch.setattr(fusion, "_BYTE", 100_000)


def fault_in_reused_memory(monkeypatch):
    memory = runtime_program.memory
    sound = memory.plan_arena

    def wrong(plan):
        arena = sound(plan)
        if plan.tier == "hot" and memory.REUSE_MEMORY.on:
            arena = memory.Arena(dict.fromkeys(arena.offsets, 0), arena.nbytes)
        return arena

    monkeypatch.setattr(memory, "plan_arena", wrong)


def with_a_wrong_operand(plan):
    """As if the last kernel had not waited for what it reads."""
    last = plan.launches[-1]
    found = next(
        i for i, a in enumerate(last.arguments)
        if a.kind == "buffer" and plan.buffers[a.value].role == "temporary"
    )  # fmt: skip
    arguments = list(last.arguments)
    arguments[found] = replace(arguments[found], value=plan.inputs[0].buffer)
    plan.launches[-1] = replace(last, arguments=tuple(arguments))


def fault_in_overlapping(monkeypatch):
    sound = runtime_program.memory.group_launches

    def wrong(plan, arena, donations):
        if plan.tier == "hot" and runtime_program.memory.OVERLAP_LAUNCHES.on:
            with_a_wrong_operand(plan)
        return sound(plan, arena, donations)

    monkeypatch.setattr(runtime_program.memory, "group_launches", wrong)


def fault_in_donations(monkeypatch):
    switch = runtime_program.memory.UPDATE_IN_PLACE

    def wrong(plan):
        return [(0, 0)] if switch.on and plan.tier == "hot" else []

    monkeypatch.setattr(runtime_program.memory, "safe_donations", wrong)


def fault_in_split_reductions(monkeypatch):
    sound = split.add_split

    def wrong(scheduler, node):
        sound(scheduler, node)
        for store in scheduler.schedule.steps[-1].nest.stages[0].stores:
            store.value = double(store.value)

    monkeypatch.setattr(calls, "add_split", wrong)


def fault_in_pass(name):
    def plant(monkeypatch):
        def wrong(graph):
            graph.outputs = [spoiled(node) for node in graph.outputs]

        passes = tuple((n, wrong if n == name else one) for n, one in compiler.PASSES)
        monkeypatch.setattr(compiler, "PASSES", passes)

    return plant


def rows(x, w):
    return F.softmax(av.tanh(x) * 2, dim=1) * w


def several(x, w):
    a = x + w
    return av.sin(a), av.cos(a), (x * w).sum(0) + w.sum(1)


def chain(x, w):
    y = x
    for _ in range(4):
        y = av.tanh(y @ w + x[0])
    return y.reshape(-1)


def looked_up(x, w):
    return av.index_select(x * 2, 0, av.tensor([2, 0, 1, 5])) + w[:4]


def turned(x, w):
    return (x.T * 2).sum(1), av.exp(x).T + w


def cut(x, w):
    return av.tanh(x.T.reshape(16, 64)) + w.reshape(16, 64)


def renamed(x, w):
    return (x @ w).reshape(-1), w @ x


def winners(x, w):
    return (x.reshape(2, 512).argmax(1)[:, None] == av.arange(512)).float() * 2 + w[0, 0]


def used_again(x, w):
    first = av.tanh(x @ w)
    return av.tanh(first @ w) @ w + first


def summed(x, w):
    return (av.outer(x.reshape(-1), w.reshape(-1)[:256])).sum()


def pooled(x, w):
    return F.max_pool2d(F.conv2d(x[None, None], w[None, None, :3, :3]), 2)


def reflected(x, w):
    return F.pad((x + w)[None, None], (3, 3, 3, 3), mode="reflect")


def short(x, w):
    return av.tanh(x[:, :2] @ w[:2]) + w


def updated(x, w):
    return x @ w, x + w


FAULTS = {
    "fuse elementwise": (fault_in_pulling((Elementwise,)), rows),
    "fuse movements": (fault_in_pulling((Movement,)), turned),
    "fuse reductions": (fault_in_pulling((Reduction,)), several),
    "fuse lookups": (fault_in_pulling((ops.take.kind,)), looked_up),
    "split reductions": (fault_in_split_reductions, summed),
    "share kernels": (fault_in_shared_kernels, several),
    "fuse rows": (fault_in_rows, rows),
    "fuse epilogues": (fault_in_epilogues, chain),
    "fuse windows": (fault_in_windows, pooled),
    "fuse short products": (fault_in_short_products, short),
    "nest concatenations": (fault_in_nesting, reflected),
    "split axes": (fault_in_splitting, cut),
    "share buffers": (fault_in_shared_buffers, renamed),
    "narrow positions": (fault_in_narrow_types, winners),
    "reuse memory": (fault_in_reused_memory, used_again),
    "overlap launches": (fault_in_overlapping, chain),
    "update in place": (fault_in_donations, updated),
    "simplify": (fault_in_pass("simplify"), several),
    "common subexpressions": (fault_in_pass("common subexpressions"), several),
    "dead code": (fault_in_pass("dead code"), several),
}


def test_a_fault_in_attention_in_blocks_is_found_and_named(monkeypatch):
    monkeypatch.setattr(attention_blocks, "_LEAST_SCORES", 1)
    sound = attention_blocks._forward

    def wrong(*given):
        y, *others = sound(*given)
        return [y + y, *others]

    def step(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    q, k, v = (av.rand(2, 9, 4) for _ in range(3))
    assert "without attention in blocks" in av.check(step, q, k, v).compared
    monkeypatch.setattr(attention_blocks, "_forward", wrong)
    (finding,) = av.check(step, q, k, v).findings
    assert (finding.judge, finding.judged) == ("plain without 'attention in blocks'", "plain")
    assert finding.culprits == ("attention in blocks",)
    with av.without("attention in blocks"):
        assert av.check(step, q, k, v)


def recurrent(x):
    av.manual_seed(0)
    return nn.LSTM(4, 3)(x)[0]


def carried(x):
    return av.scan(lambda s, row: (av.tanh(s + row), s * 2), av.zeros(4), x)


def branching(x):
    return av.cond(x.sum() > 0, lambda x: x * 2, lambda x: x.exp(), x)


def halving(x):
    return av.while_loop(lambda s: (s * s).sum() > 1e-2, lambda s: s * 0.5, x)


@pytest.mark.parametrize("step", [recurrent, carried, branching, halving])
def test_loops_are_compared(step):
    assert av.check(step, av.rand(5, 4))


def test_a_fault_inside_a_loop_is_found_and_named(monkeypatch):
    fault_in_pulling((Elementwise,))(monkeypatch)
    (finding, *_) = av.check(carried, av.rand(5, 4)).findings
    assert finding.what.startswith("result")
    assert "fuse elementwise" in finding.culprits


def test_gradients_of_loops_are_compared():
    def step(x):
        return recurrent(x).square().sum()

    x = av.rand(5, 4)
    report = av.check(step, x)
    assert report, report
    assert "finite differences" in report.compared


def test_there_is_a_fault_for_every_switch():
    bits = {s.name for s in av.switches() if s.kind not in ("rule", "algorithm")}
    assert bits - set(FAULTS) <= {"my fusion"}
    assert {s.name for s in av.switches() if s.kind == "algorithm"} == {"attention in blocks"}
    assert {s.name for s in av.switches() if s.kind == "rule"} >= {r.name for r in rewrite.RULES}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_fusion_is_found_and_named(name, monkeypatch):
    plant, step = FAULTS[name]
    av.manual_seed(1)
    x, w = av.randn(32, 32), av.randn(32, 32)
    assert av.check(step, x, w)
    cache.clear()
    plant(monkeypatch)
    findings = av.check(step, x, w).findings
    assert findings, "the fault was not found"
    assert findings[-1].judged == "hot"
    assert findings[-1].culprits == (name,)


def test_a_fault_in_a_kernel_is_found_by_the_meaning(monkeypatch):
    monkeypatch.setitem(ops.tanh.rules, "lower", lambda emit, x: emit.exp(x))
    monkeypatch.setattr(assemble, "_kernels", OrderedDict())
    line = re.escape(__file__)
    (finding,) = av.check(lambda x: (av.tanh(x) * 3).sum(), av.full((7,), 0.25)).findings[:1]
    assert (finding.judge, finding.judged) == ("reference", "plain")
    assert finding.what.startswith("tanh")
    assert re.match(line, finding.source)
    assert finding.difference.index == (0,)
    assert finding.difference.ulps > 1000


def test_the_first_wrong_call_is_named_with_line_and_values(monkeypatch):
    sound = next(rule for rule in rewrite.RULES if rule.name == "undone")
    bad = sound._replace(apply=lambda call: (made := sound.apply(call)) and spoiled(made))
    rules = tuple(bad if rule is sound else rule for rule in rewrite.RULES)
    monkeypatch.setattr(compiler, "RULES", rules)

    def step(x):
        y = av.exp(x) + 1
        z = av.neg(-y)
        return av.sqrt(z).sum() * 2

    (finding,) = [f for f in av.check(step, av.zeros(4)).findings if f.judged == "hot"]
    assert finding.what.startswith("negative")
    assert finding.source.endswith(f":{step.__code__.co_firstlineno + 2}")
    assert (finding.difference.expected, finding.difference.found) == (2.0, 3.0)
    assert finding.difference.count == 4
    assert "'undone'" in str(finding)


def test_a_damaged_program_on_disk_is_named():
    x, w = av.randn(32, 32), av.randn(32, 32)
    assert av.check(chain, x, w)
    stored = compiler.stored
    sound = stored.read

    def wrong(key):
        plan = sound(key)
        if plan is not None and plan.tier == "hot":
            with_a_wrong_operand(plan)
        return plan

    patched = SimpleNamespace(**{**vars(stored), "read": wrong})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "stored", patched)
        findings = av.check(chain, x, w).findings
    assert "program on disk" in findings[-1].culprits[0]
