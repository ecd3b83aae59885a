"""Checkpoints and other result files that are either complete or not there.

A file is written under another name in the same folder, flushed to the disk, and then renamed
over the old one, so that a run killed at any moment leaves the old or the new file.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from fastmaml.errors import SettingError

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
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


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
