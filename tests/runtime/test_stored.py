"""Plans on disk: what comes back is equal, and the key knows what the plan depends on."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype
from avalon.runtime import cache, library, stored
from avalon.runtime.buffer import Buffer
from avalon.runtime.plan import BufferSpec
from avalon.runtime.program import Program
from avalon.settings import settings
from tests.runtime import plans


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path):
    settings.cache = tmp_path / "cache"
    library.forget()


def sample():
    plan = plans.checked(4)
    plan.buffers.append(BufferSpec(3, "uint8", (3,), "constant", data=b"\0\xff!"))
    return plan


def test_a_plan_comes_back_equal_and_runs():
    key = stored.key_of("graph", "hot", library.host())
    assert stored.read(key) is None
    stored.write(key, sample())
    again = stored.read(key)
    assert again == sample()
    inputs = [Buffer.from_numpy(np.ones(4, "float32")), 3.0, Buffer.from_numpy(np.zeros(4, int))]
    (result,) = Program(again).run(inputs)
    assert result.as_numpy(dtype.float32, (4,)).tolist() == [3, 3, 3, 3]


def test_a_later_process_builds_nothing():
    plan = sample()
    assert Program(plan).built == 2
    stored.write("key", plan)
    library.forget()
    assert Program(stored.read("key")).built == 0


def test_the_key_knows_graph_tier_machine_and_source(monkeypatch):
    host, other = library.host(), library.NamedMachine("x86_64-unknown-linux-gnu", "x86-64")
    keys = {
        stored.key_of("graph", "hot", host),
        stored.key_of(b"graph2", "hot", host),
        stored.key_of("graph", "cold", host),
        stored.key_of("graph", "hot", other),
    }
    monkeypatch.setattr(stored, "source_digest", lambda: b"edited")
    keys.add(stored.key_of("graph", "hot", host))
    assert len(keys) == 5
    assert stored.key_of("graph", "hot", host) == stored.key_of(b"graph", "hot", host)


@pytest.mark.parametrize("content", [b"", b"no zlib", stored.zlib.compress(b"short")])
def test_an_entry_of_another_form_is_ignored(content):
    cache.write("program", "key", content)
    assert stored.read("key") is None


def test_a_stored_plan_cut_short_is_ignored():
    raw = stored.zlib.decompress(stored.to_bytes(sample()))
    for end in (4, 20, len(raw) - 1):
        cache.write("program", "key", stored.zlib.compress(raw[:end]))
        assert stored.read("key") is None
