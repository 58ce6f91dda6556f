"""The examples and the README's code run as they stand (with fewer epochs)."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["cnn", "vae"])
def test_examples_run(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--epochs", "1"])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("epoch 1: ")


def test_the_readmes_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    exec(blocks[0].replace("epochs=10", "epochs=1"), names)
    assert (tmp_path / "curve.png").exists()
    exec(blocks[1], names)
    timing = "import time\ndef step(x, y):\n    return F.nll_loss(net(x), y)\n" + blocks[2]
    exec(timing.replace("range(100)", "range(2)"), names)
    assert float(capsys.readouterr().out) > 0


def test_the_readmes_tree_is_the_real_one():
    (tree,) = re.findall(r"```\navalon/\n(.*?)tests/", (ROOT / "README.md").read_text(), re.DOTALL)
    named = re.findall(r"(?:^  |  )([a-z]+(?:/|\.py))(?=  |$)", tree, re.MULTILINE)
    assert len(named) >= 15
    for name in named:
        assert (ROOT / "avalon" / name).exists(), name
