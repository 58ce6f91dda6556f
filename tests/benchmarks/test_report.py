"""The benchmark's arithmetic and output, on made-up timings: no timing decides a test."""

import json

from benchmarks import measure, report

TURNS = {"avalon": [0.002, 0.004, 0.001], "torch": [0.004, 0.004, 0.004], "jax": [0.001] * 3}


def test_ratios_are_paired():
    assert report.ratio(TURNS, "torch") == 2  # the median of 2, 1 and 4, not 4 over 2
    assert report.ratio(TURNS, "jax") == 0.5


def test_summary():
    summary = report.summarize(TURNS)
    assert summary["milliseconds"] == {"avalon": 2, "torch": 4, "jax": 1}
    assert summary["times as long"] == {"torch": 2, "jax": 0.5}
    assert summary["turns"]["avalon"] == [2, 4, 1]


def test_the_best_peer_is_not_ourselves_in_another_way():
    summary = report.summarize(TURNS | {"avalon loop": [0.001] * 3})
    assert summary["times as long"]["avalon loop"] == 0.5
    assert report.best(summary | {"times as long": {"avalon loop": 0.5, "torch": 2.0}}) == 2.0


def test_the_three_files(tmp_path):
    line = report.summarize(TURNS)
    results = {
        "machine": {"cores": 2},
        "table": {"CNN, train": line | {"asked": 3.0}, "CNN, predict": line | {"asked": 4.0}},
        "layers": {"relu": line, "ctc": "not there: CTCLoss"},
        "squares": {"256": line | {"rate": {"avalon": 80.0, "multiply-adds": 100.0}}},
        "starts": {
            "compiled call": {"4 tensors": 5.25e-6},
            "import": {"avalon": 0.2, "torch": 1.6},
        },
    }
    report.write(results, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert (tmp_path / "out" / "results.png").read_bytes()[:4] == b"\x89PNG"
    text = (tmp_path / "out" / "results.txt").read_text()
    assert "    0.50    3.00" in text
    assert "geometric mean 0.50, least 0.50" in text
    assert "0 of 1 at 1.0 or better, least 0.50" in text
    assert "not there: CTCLoss" in text
    assert "of the limit  0.80" in text
    assert "5.2 us" in text
    assert "200.0 ms" in text
    assert "1.60 s" in text


def test_competitors_take_turns(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE", 0)
    calls = []
    steps = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    turns = measure.take_turns(steps, rounds=3, seconds=0)
    assert {name: len(values) for name, values in turns.items()} == {"a": 3, "b": 3}
    per_turn = measure.UNCOUNTED + 5
    warm = 2 * measure.UNCOUNTED
    assert calls == ["a"] * warm + ["b"] * warm + (["a"] * per_turn + ["b"] * per_turn) * 3


def test_the_machine_is_described():
    description = measure.machine()
    assert description["cores"] >= 1
    assert description["matmul GFLOP/s"] > 0
