"""PyTorch's heap: settings of the C library without which its times depend on what ran before.

glibc gives freed memory back and takes it anew on each step of PyTorch's CNN, which then varies
between 13 and 20 ms. The allocator reads its settings before main begins, so a process that lacks
them starts itself again.
"""

from __future__ import annotations

import os
import sys

SETTINGS = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}


def settle(module: str) -> None:
    """Restart this process, which runs `python -m module`, unless it has the settings."""
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | SETTINGS)
