"""The cache folder: kernels' object code and whole programs, kept between runs of Python.

Comes in: a kind ("kernel", "program"), a key, bytes. Goes out: the same bytes in a later process,
or None. Guaranteed: a file that is damaged, half written, of another version or of another user's
making is ignored (and replaced when the entry is built again); the folder stays within
`settings.cache_bytes`, the oldest files leaving first; a folder that cannot be used costs one
warning and nothing else.

A file is written under a temporary name and renamed when complete, so a process that is killed
leaves no entry behind, only a temporary file, which a later process removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import struct
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from avalon.settings import settings

_MAGIC = b"avalon cache 1\0\0"
_HEADER = struct.Struct("<16s32sQ")  # magic, digest of name and content, length of the content
_TEMPORARY = ".writing-"
_ABANDONED_SECONDS = 3600.0
_KEEP_AFTER_CLEANING = 0.75  # of the bound, so that cleaning is rare


@dataclass
class _Folder:
    """What this process knows of one cache folder."""

    path: Path
    refused: str = ""  # why it is not used
    nbytes: int | None = None  # size at the last look plus what was written since
    lock: threading.Lock = field(default_factory=threading.Lock)


_folders: dict[Path, _Folder] = {}
_numbers = itertools.count()


def read(kind: str, key: str) -> bytes | None:
    """Return the content of an entry, or None if there is no sound one."""
    folder = _folder()
    if folder.refused:
        return None
    path = folder.path / f"{kind}-{key}"
    try:
        content = path.read_bytes()
    except OSError:
        return None
    payload = _open(f"{kind}-{key}", content)
    if payload is not None:
        _mark_as_used(path)
    return payload


def write(kind: str, key: str, payload: bytes) -> None:
    """Keep `payload` for later processes; does nothing if the folder cannot be written."""
    folder = _folder()
    if folder.refused:
        return
    name = f"{kind}-{key}"
    temporary = folder.path / f"{_TEMPORARY}{os.getpid()}-{next(_numbers)}"
    try:
        if not folder.path.is_dir():  # removed since the last write
            folder.path.mkdir(mode=0o700, parents=True)
        with temporary.open("xb") as file:
            file.write(_HEADER.pack(_MAGIC, _digest(name, payload), len(payload)))
            file.write(payload)
        temporary.replace(folder.path / name)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        _refuse(folder, f"it cannot be written ({error.strerror or error})")
        return
    with folder.lock:
        if folder.nbytes is None:
            folder.nbytes = _clean(folder.path)
        folder.nbytes += _HEADER.size + len(payload)
        if folder.nbytes > settings.cache_bytes:
            folder.nbytes = _clean(folder.path)


def usable() -> bool:
    """True if entries written now will be found by a later process."""
    return not _folder().refused


def size() -> tuple[int, int]:
    """Return the number of entries in the cache folder and their bytes."""
    entries = [entry for entry in _entries(settings.cache) if not _is_temporary(entry)]
    return len(entries), sum(entry.stat().st_size for entry in entries)


def clear() -> int:
    """Remove every entry from the cache folder; return how many there were.

    Files that are not the cache's own are left alone.
    """
    removed = 0
    for entry in _entries(settings.cache):
        with contextlib.suppress(OSError):
            Path(entry.path).unlink()
            removed += not _is_temporary(entry)
    _folders.pop(settings.cache, None)
    return removed


def renew_locks() -> None:
    """Start with free locks in a forked child, whatever the parent's threads were doing."""
    for folder in list(_folders.values()):
        folder.lock = threading.Lock()


def _folder() -> _Folder:
    folder = _folders.get(settings.cache)
    if folder is None:
        folder = _folders[settings.cache] = _Folder(settings.cache)
        if settings.cache_bytes <= 0:
            folder.refused = "the cache is switched off"
        else:
            _prepare(folder)
    return folder


def _prepare(folder: _Folder) -> None:
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.path.stat()
    except OSError as error:
        _refuse(folder, f"it cannot be made ({error.strerror or error})")
        return
    # Whoever can write here can make this process run code.
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        _refuse(folder, "it belongs to another user")
    elif os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _refuse(folder, "other users can write to it")


def _refuse(folder: _Folder, reason: str) -> None:
    if folder.refused:
        return
    folder.refused = reason
    warnings.warn(
        f"[cache] the folder {folder.path} is not used: {reason}. Programs will be compiled again "
        "in every process. Set AVALON_CACHE to a folder of yours with free space.",
        RuntimeWarning,
        stacklevel=4,
    )


def _digest(name: str, payload: bytes) -> bytes:
    digest = hashlib.sha256(name.encode())
    digest.update(payload)
    return digest.digest()


def _open(name: str, content: bytes) -> bytes | None:
    if len(content) < _HEADER.size:
        return None
    magic, digest, length = _HEADER.unpack_from(content)
    payload = content[_HEADER.size :]
    if magic != _MAGIC or length != len(payload) or digest != _digest(name, payload):
        return None
    return payload


def _mark_as_used(path: Path) -> None:
    """Make the entry young again; once an hour is enough to tell old from new."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > 3600:
            os.utime(path)


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as scan:
            return [
                entry
                for entry in scan
                if entry.name.startswith(("kernel-", "program-", _TEMPORARY))
                and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []


def _is_temporary(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(_TEMPORARY)


def _clean(path: Path) -> int:
    """Remove what killed processes left and the oldest beyond the bound; return the size."""
    found = []
    for entry in _entries(path):
        with contextlib.suppress(OSError):
            status = entry.stat()
            if not _is_temporary(entry):
                found.append((status.st_mtime, status.st_size, entry.path))
            elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                Path(entry.path).unlink()
    total = sum(nbytes for _, nbytes, _ in found)
    if total <= settings.cache_bytes:
        return total
    for _, nbytes, name in sorted(found):
        if total <= settings.cache_bytes * _KEEP_AFTER_CLEANING:
            break
        with contextlib.suppress(OSError):
            Path(name).unlink()
            total -= nbytes
    return total
