"""Settings: read from the environment, and from what the machine grants."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

from avalon.settings import Settings

module = import_module("avalon.settings")  # `avalon.settings` itself is the settings object


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200000 100000\n", 2), ("150000 100000", 2), ("max 100000", 1 << 20), ("", 1 << 20)],
)
def test_a_control_group_bounds_the_threads(tmp_path, text, expected):
    (tmp_path / "cpu.max").write_text(text)
    assert module._granted(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("50000", 1), ("400000", 4), ("-1", 1 << 20)])
def test_the_older_control_groups_count_too(tmp_path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert module._granted(tmp_path) == expected


def test_without_control_groups_the_affinity_mask_decides(tmp_path, monkeypatch):
    monkeypatch.delenv("AVALON_NUM_THREADS", raising=False)
    assert module._granted(tmp_path / "none") == 1 << 20
    assert 1 <= Settings().threads <= (os.cpu_count() or 1)


def test_the_environment_decides_first(monkeypatch, tmp_path):
    monkeypatch.setenv("AVALON_NUM_THREADS", "3")
    monkeypatch.setenv("AVALON_CACHE", str(tmp_path))
    monkeypatch.setenv("AVALON_TIER", "plain")
    settings = Settings()
    assert (settings.threads, settings.cache, settings.tier) == (3, tmp_path, "plain")


def test_what_cannot_be_is_refused():
    settings = Settings()
    with pytest.raises(ValueError, match=r"\[settings\] threads must be 1 or more, got 0"):
        settings.threads = 0
    with pytest.raises(
        ValueError, match="tier is one of 'auto', 'cold', 'hot', 'plain', got 'fast'"
    ):
        settings.tier = "fast"
    with pytest.raises(AttributeError):
        settings.thread = 2
    settings.cache = "folder"
    assert settings.cache == Path("folder")
