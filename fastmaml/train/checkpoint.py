"""Checkpoints and other result files that are either complete or not there.

A file is written under another name in the same folder, flushed to the disk, and then renamed
over the old one, so that a run killed at any moment leaves the old or the new file.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from fastmaml.errors import SettingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Calls `write` with a new binary file and puts that file at `path` once it is on the disk.

    Args:
        path: the final place; its folder is made when missing.
        write: fills the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, and removes what killed ones left half written.

    The lock ends with the process, however that ends. A folder that stays empty goes again.

    Raises:
        SettingError: another run has the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY) if fcntl is not None else -1
    try:
        _lock(lock, folder)
        for partial in folder.glob(".*.tmp"):
            partial.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
        if lock >= 0:
            os.close(lock)


def _lock(handle: int, folder: Path) -> None:
    if handle < 0:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SettingError(
            f"train: {folder} must belong to one run at a time, another is going on; wait for it, "
            "or choose another --out."
        ) from error
    except OSError:
        pass  # a file system without locks


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable, where the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) as a checkpoint, atomically."""
    whole = io.BytesIO()  # torch's own writer hides why a file could not be written
    torch.save({"format": FORMAT, **state}, whole)
    write_atomically(path, lambda file: file.write(whole.getbuffer()))


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; tensors and plain values only, no code is run.

    Raises:
        FileNotFoundError: there is no such file.
        SettingError: the file is no checkpoint of this program or of another format.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint: {path} must be a file, none is there; check the path."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise SettingError(
            f"checkpoint: {path} must be a checkpoint of fastmaml train, it cannot be read as one; "
            "give another file."
        ) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise SettingError(
            f"checkpoint: {path} must have format {FORMAT}, got {found}; "
            "use the fastmaml version that wrote it."
        )
    return dict(state)
