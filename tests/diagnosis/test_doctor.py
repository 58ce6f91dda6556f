"""`avalon doctor`: what it prints here, and that it notices what is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from avalon import cli
from avalon.diagnosis.doctor import describe, look, warnings
from avalon.settings import settings


@pytest.fixture(scope="module")
def sound():
    """A machine on which nothing is wrong."""
    return replace(
        look(measure=False), has_fma=True, threads=2, available=2, processors=2, load=0.1,
        folder_works=True, folder_mode=0o700, folder_bytes=0, llvmlite=(0, 45),
        flush_denormals=False, environment={}, peak=200.0, memory=20.0, product=180.0,
    )  # fmt: skip


def test_a_sound_machine_has_no_warnings(sound):
    assert not list(warnings(sound))


WRONG = {
    "no fused multiply-add": {"has_fma": False},
    "only one thread is used, 2 processors": {"threads": 1},
    "8 threads share 2 processors": {"threads": 8},
    "9 programs want 2 processors": {"load": 9.0},
    "OMP_NUM_THREADS=1 is set": {"environment": {"OMP_NUM_THREADS": "1"}},
    "cannot be written": {"folder_works": False},
    "chmod 700": {"folder_mode": 0o777},
    "avalon cache clear": {"folder_bytes": 1 << 40},
    "llvmlite 0.40 is older than 0.45": {"llvmlite": (0, 40)},
    "denormal": {"flush_denormals": True},
    "reaches 25% of": {"product": 50.0},
}


@pytest.mark.parametrize("warning", WRONG)
def test_what_is_wrong_is_said(sound, warning):
    (said,) = warnings(replace(sound, **WRONG[warning]))
    assert warning in said


def test_threads_that_were_set_on_purpose_are_no_warning(sound):
    environment = {"OMP_NUM_THREADS": "1", "AVALON_NUM_THREADS": "2"}
    assert not list(warnings(replace(sound, environment=environment)))


def test_rates_are_compared_with_the_peak(sound):
    assert ("product", "1024 x 1024: 180 GFLOP/s, 90% of that") in list(describe(sound))
    quick = dict(describe(replace(sound, peak=0.0)))
    assert "memory" not in quick


def test_the_command_prints_what_it_found(capsys):
    cli.main(["doctor", "--quick"])
    text = capsys.readouterr().out
    for name in ("processor:", "vectors:", "threads:", "versions:", "cache folder:"):
        assert name in text
    assert "llvmlite" in text
    assert "GFLOP/s" not in text


def test_the_command_measures(capsys):
    cli.main(["doctor"])
    text = capsys.readouterr().out
    assert "multiply-adds:" in text
    assert "GB/s" in text


def test_a_cache_folder_that_cannot_be_written_is_noticed(tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(settings, "cache", Path(blocked) / "cache")
    with pytest.warns(RuntimeWarning, match="is not used"):
        cli.main(["doctor", "--quick"])
    assert "cannot be written" in capsys.readouterr().out
