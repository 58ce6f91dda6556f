"""The cache folder: sound entries come back, all others are ignored, the size stays bounded."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from avalon.runtime import cache
from avalon.settings import settings

POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions and signals of POSIX")


@pytest.fixture(autouse=True)
def folder(tmp_path):
    settings.cache = tmp_path / "made" / "cache"
    return settings.cache


def entry(key="a"):
    return settings.cache / f"kernel-{key}"


def test_an_entry_comes_back_and_kinds_are_apart():
    cache.write("kernel", "a", b"code")
    cache.write("program", "a", b"plan")
    assert cache.read("kernel", "a") == b"code"
    assert cache.read("program", "a") == b"plan"
    assert cache.read("kernel", "b") is None
    assert cache.usable()
    assert cache.size()[0] == 2


@POSIX
def test_the_folder_is_for_this_user_alone(folder):
    cache.write("kernel", "a", b"code")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("cut", [0, 5, 30, 56, 60])
def test_a_truncated_file_is_ignored_and_replaced(cut):
    cache.write("kernel", "a", b"code" * 10)
    entry().write_bytes(entry().read_bytes()[:cut])
    assert cache.read("kernel", "a") is None
    cache.write("kernel", "a", b"code" * 10)
    assert cache.read("kernel", "a") == b"code" * 10


@pytest.mark.parametrize("position", [0, 20, 50, 60, 95])
def test_a_damaged_byte_is_noticed(position):
    cache.write("kernel", "a", b"code" * 10)
    content = bytearray(entry().read_bytes())
    content[position] ^= 1
    entry().write_bytes(content)
    assert cache.read("kernel", "a") is None


def test_an_entry_under_another_name_is_foreign():
    cache.write("kernel", "a", b"code")
    entry().rename(entry("b"))
    assert cache.read("kernel", "b") is None
    entry("c").write_bytes(b"something else entirely, of no format that we know")
    assert cache.read("kernel", "c") is None


def test_the_size_is_bounded_and_the_oldest_leave_first():
    settings.cache_bytes = 10_000
    for number in range(30):
        cache.write("kernel", str(number), bytes(1000))
        os.utime(entry(str(number)), (number, number))
        assert cache.size()[1] <= 11_100
    assert cache.read("kernel", "29") is not None
    assert cache.read("kernel", "0") is None
    assert cache.size()[0] >= 6


def test_reading_keeps_an_old_entry_young():
    cache.write("kernel", "a", b"code")
    os.utime(entry(), (1, 1))
    cache.read("kernel", "a")
    assert time.time() - entry().stat().st_mtime < 60


def test_clear_removes_only_what_is_ours(folder):
    cache.write("kernel", "a", b"code")
    other = folder / "notes.txt"
    other.write_text("mine")
    assert cache.clear() == 1
    assert other.read_text() == "mine"
    assert cache.size() == (0, 0)
    cache.write("kernel", "a", b"code")
    assert cache.read("kernel", "a") == b"code"


def test_a_folder_that_vanished_is_made_again(folder):
    cache.write("kernel", "a", b"code")
    entry().unlink()
    folder.rmdir()
    cache.write("kernel", "a", b"code")
    assert cache.read("kernel", "a") == b"code"


def refused(reason):
    """Writing warns once, naming the remedy; then everything works without the cache."""
    with pytest.warns(RuntimeWarning, match=f"{reason}.*Set AVALON_CACHE"):
        cache.write("kernel", "a", b"code")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.write("kernel", "a", b"code")
        assert cache.read("kernel", "a") is None
        assert not cache.usable()


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    settings.cache = tmp_path / "file" / "cache"
    refused("it cannot be made")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_costs_one_warning(monkeypatch):
    assert cache.usable()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    refused("it cannot be written .No space left on device")


@POSIX
def test_a_folder_that_others_can_write_is_not_trusted(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    refused("other users can write to it")
    assert list(folder.iterdir()) == []


def test_no_bytes_allowed_means_no_cache():
    settings.cache_bytes = 0
    cache.write("kernel", "a", b"code")
    assert cache.read("kernel", "a") is None
    assert not settings.cache.exists()


@POSIX
def test_a_process_killed_while_writing_harms_nothing(folder):
    code = (
        "import os, sys\n"
        "from avalon.runtime import cache\n"
        "print('ready', flush=True)\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    cache.write('kernel', str(number % 7), bytes([number % 256]) * 3_000_000)\n"
    )
    for delay in (0.005, 0.02, 0.05):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            env={**os.environ, "AVALON_CACHE": str(folder)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for number in range(7):
            content = cache.read("kernel", str(number))
            assert content is None or content == content[:1] * 3_000_000
            assert content is not None or not entry(str(number)).exists()
    left = folder / ".writing-1-1"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    cache.write("kernel", "a", b"code")
    assert not left.exists()
    assert cache.read("kernel", "a") == b"code"
