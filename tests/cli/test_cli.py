"""The command line: its words, its help for wrong words, the cache, and whole training runs."""

import re
import subprocess
import sys

import pytest

from avalon import cli, safetensors
from avalon.runtime import cache
from avalon.settings import settings

WRONG = {
    "trian cnn": "unknown command 'trian' (did you mean 'train'?); choose train or cache or doctor",
    "train cmm": "unknown model 'cmm' (did you mean 'cnn'?); choose cnn or vae",
    "train cnn --epoch 3": "unknown option '--epoch' (did you mean '--epochs'?)",
    "train cnn --epochs 0": "'0' is not a whole number above 0",
    "train cnn --batch-size many": "'many' is not a whole number above 0",
    "train cnn --seed x": "invalid int value: 'x'",
    "train": "the following arguments are required: cnn|vae",
    "cache empty": "unknown action 'empty'; choose show or clear",
    "--verbose": "unknown command '--verbose'",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_words_are_answered_with_the_nearest_right_one(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 2
    assert WRONG[line] in capsys.readouterr().err


def test_no_words_print_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2
    assert "train|cache|doctor" in capsys.readouterr().out


def test_bad_data_is_one_line_without_a_traceback(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "cnn", "--data", str(tmp_path / "nowhere")])
    assert str(stopped.value.code).startswith("avalon: [mnist] there is no folder")


def test_cache_is_shown_and_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings, "cache", tmp_path)
    cache.write("kernel", "one", bytes(2**20))
    (tmp_path / "mine.txt").write_text("not the cache's")
    cli.main(["cache", "show"])
    assert "holds 1 entries, 1.0 MB" in capsys.readouterr().out
    cli.main(["cache", "clear"])
    assert "removed 1 entries, 1.0 MB" in capsys.readouterr().out
    cli.main(["cache", "show"])
    assert "holds 0 entries" in capsys.readouterr().out
    assert (tmp_path / "mine.txt").exists()


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "avalon", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("avalon ")


@pytest.mark.parametrize(("model", "picture"), [("cnn", "predictions.png"), ("vae", "images.png")])
def test_a_short_run_leaves_its_model_and_pictures(tmp_path, capsys, model, picture):
    line = ["train", model, "--epochs", "1", "--batch-size", "32", "--out", str(tmp_path)]
    cli.main(line)
    printed = capsys.readouterr().out
    assert "1437 images to train, 360 to test" in printed
    assert "trained in" in printed
    for name in ("learning_curve.png", picture):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    first, _ = safetensors.read(tmp_path / "model.safetensors")
    cli.main(line)
    second, _ = safetensors.read(tmp_path / "model.safetensors")
    assert {name: stored.array.tobytes() for name, stored in first.items()} == {
        name: stored.array.tobytes() for name, stored in second.items()
    }


def test_the_cnn_learns_the_digits(tmp_path, capsys):
    """The seed with the lowest accuracy of 0 to 4; the others reach up to 98.6 %."""
    cli.main(["train", "cnn", "--seed", "3", "--out", str(tmp_path)])
    (accuracy,) = re.findall(r"test accuracy ([\d.]+) %", capsys.readouterr().out)
    assert float(accuracy) >= 97.0
