"""Reading what users have: archives, pictures and lists, each mistake with its file's name."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmaml.errors import SettingError

SUFFIXES = (".png", ".jpg", ".jpeg")
_DAMAGE = (KeyError, ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_arrays(where: str, path: Path, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Arrays of an .npz, by name.

    Args:
        where: the call that error texts begin with.
        path: the file.
        wanted: for each array the keys that it may have, the first that is there counts.

    Returns:
        By the names of `wanted` the arrays, and under "key" the first one's key.

    Raises:
        SettingError: the file is damaged, or no .npz with such arrays.
    """
    try:
        # Opened here: of a damaged archive numpy leaves the file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            keys = {
                name: next((key for key in choice if key in stored), choice[0])
                for name, choice in wanted.items()
            }
            found: dict[str, Any] = {name: stored[key] for name, key in keys.items()}
            found["key"] = next(iter(keys.values()))
    except _DAMAGE as error:
        names = " and ".join(" or ".join(choice) for choice in wanted.values())
        raise SettingError(
            f"{where}: {path} must be an .npz with the arrays {names} ({error}); give another "
            "file, or download it again."
        ) from error
    return found


def check_names(where: str, path: Path, names: NDArray[Any], classes: int) -> tuple[str, ...]:
    """Class names, one for each class.

    Raises:
        SettingError: they are not.
    """
    if names.ndim != 1 or len(names) != classes:
        came = len(names) if names.ndim == 1 else f"an array of shape {list(names.shape)}"
        raise SettingError(
            f"{where}: class_names in {path} must name {classes} classes, got {came}; the file is "
            "damaged."
        )
    return tuple(str(name) for name in names)


def picture_files(folder: Path) -> Iterator[Path]:
    """The pictures in a folder, sorted; what other systems put beside them is passed over."""
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            yield file


def read_picture(where: str, path: Path, mode: str) -> NDArray[np.uint8]:
    """A picture's pixels, [H, W] for mode "L" and [H, W, 3] for "RGB".

    Where it is transparent it is white: there is no ink.

    Raises:
        SettingError: the file is damaged or no picture, or Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise SettingError(
            f"{where}: reading pictures needs Pillow; pip install pillow, or give an .npz."
        ) from error
    try:
        with Image.open(path) as image:
            if "A" in image.getbands() or "transparency" in image.info:
                layered = image.convert("RGBA")
                white = Image.new("RGBA", layered.size, "white")
                return np.asarray(Image.alpha_composite(white, layered).convert(mode))
            return np.asarray(image.convert(mode))
    except (*_DAMAGE, SyntaxError, Image.DecompressionBombError, MemoryError) as error:
        raise SettingError(
            f"{where}: {path} must be a picture, it cannot be read ({error}); unpack the archive "
            "again."
        ) from error


def read_lines(where: str, path: Path) -> list[str]:
    """The lines of a text file in UTF-8, UTF-16 or Latin-1, without empty ones.

    Raises:
        FileNotFoundError: there is no such file.
        SettingError: it is no text.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise SettingError(f"{where}: {path} must be a text file, it is none; save it as UTF-8.")
    return [line.strip() for line in text.splitlines() if line.strip()]
