"""CIFAR-FS: CIFAR-100's pictures in 64 training, 16 validation and 20 test classes.

Source: Bertinetto, Henriques, Torr, Vedaldi, Meta-learning with differentiable closed-form solvers,
2019. Pixels are red, green, blue, 0 to 255.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmaml.data.files import SUFFIXES, check_names, picture_files, read_arrays, read_picture
from fastmaml.data.omniglot import split_classes
from fastmaml.errors import SettingError

PARTS = ("train", "val", "test")
SHAPE = (3, 32, 32)
PLACES = (".", "cifar_fs", "cifar-fs", "cifar100")
LISTS = Path("splits") / "bertinetto"


class ClassImages(NamedTuple):
    """Pictures of some classes.

    Attributes:
        images: uint8 [classes, pictures, 3, 32, 32].
        names: the classes' names.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]


def load_cifar_fs(path: str | Path, split: str | Path | None = None) -> dict[str, ClassImages]:
    """Reads CIFAR-FS from three .npz or from folders of pictures.

    Args:
        path: a folder that holds (itself, or in ``cifar_fs/``, ``cifar-fs/`` or ``cifar100/``) one
            of: ``cifar_fs_train.npz``, ``_val`` and ``_test`` with `class_names` and either
            `images` uint8 [classes, pictures, 3, 32, 32] or `images_delta`, the same stored as
            differences along height and width, with green taken from red and blue; folders
            ``train``, ``val`` and ``test`` of ``class/picture.png``; or ``class/picture.png``,
            itself or in ``data/``, which needs class lists. Pictures need Pillow.
        split: folder of train.txt, val.txt and test.txt with one class name a line. None takes the
            split of the files; for ``class/picture.png`` it takes ``splits/bertinetto``.

    Returns:
        Images and names of "train", "val" and "test". Folders are read in sorted order.

    Raises:
        FileNotFoundError: nothing of the above, or no class list, is there.
        SettingError: pictures or arrays of another shape, classes that differ in their number of
            pictures, a class in two parts, or Pillow is missing.
    """
    root = Path(path).expanduser()
    for folder in (root / place for place in PLACES):
        if all(_npz(folder, part).is_file() for part in PARTS):
            return _divided({part: _read_npz(_npz(folder, part)) for part in PARTS}, split)
        if all((folder / part).is_dir() for part in PARTS):
            return _divided({part: _read_classes(folder / part) for part in PARTS}, split)
        if split is not None or (folder / LISTS).is_dir():
            pictures = folder / "data" if (folder / "data").is_dir() else folder
            if any(file.suffix.lower() in SUFFIXES for file in pictures.glob("*/*")):
                return _divided({"": _read_classes(pictures)}, split or folder / LISTS)
    raise FileNotFoundError(
        f"load_cifar_fs: {root} must hold {_npz(Path(), 'train')}, _val and _test, or folders "
        "train, val and test of class/picture.png, or class/picture.png with class lists; none of "
        "them is there, check the path or give --split."
    )


def _npz(folder: Path, part: str) -> Path:
    return folder / f"cifar_fs_{part}.npz"


def _divided(parts: dict[str, ClassImages], split: str | Path | None) -> dict[str, ClassImages]:
    """The parts as they are, or all their classes by the lists in `split`."""
    names = tuple(name for part in parts.values() for name in part.names)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SettingError(
            f"load_cifar_fs: a class must be in one part only, {twice[0]!r} is in two; "
            "mend the folders or files."
        )
    counts = {part.images.shape[1] for part in parts.values()}
    if split is None:
        return parts
    if len(counts) > 1:
        raise SettingError(
            "load_cifar_fs: with class lists all parts must have the same number of pictures "
            f"per class, got {sorted(counts)}; leave out --split."
        )
    images = np.concatenate([part.images for part in parts.values()])
    lists = split_classes(names, split)
    return {
        part: ClassImages(images[lists[part]], tuple(names[i] for i in lists[part]))
        for part in PARTS
    }


def _read_npz(path: Path) -> ClassImages:
    wanted = {"images": ("images", "images_delta"), "class_names": ("class_names",)}
    stored = read_arrays("load_cifar_fs", path, wanted)
    images, key = stored["images"], stored["key"]
    if images.dtype != np.uint8 or images.ndim != 5 or images.shape[2:] != SHAPE:
        raise SettingError(
            f"load_cifar_fs: {key} in {path} must be uint8 [classes, pictures, 3, 32, 32], got "
            f"{images.dtype} {list(images.shape)}; give another file."
        )
    names = check_names("load_cifar_fs", path, stored["class_names"], len(images))
    if key == "images_delta":
        images = images.cumsum(-2, dtype=np.uint8).cumsum(-1, dtype=np.uint8)
        images[:, :, ::2] += images[:, :, 1:2]
    return ClassImages(images, names)


def _read_classes(root: Path) -> ClassImages:
    """Pictures ``class/picture.png`` under `root`."""
    names: list[str] = []
    classes: list[NDArray[np.uint8]] = []
    for folder in sorted(place for place in root.iterdir() if place.is_dir()):
        pictures = []
        for file in picture_files(folder):
            pixels = read_picture("load_cifar_fs", file, "RGB").transpose(2, 0, 1)
            if pixels.shape != SHAPE:
                raise SettingError(
                    f"load_cifar_fs: {file} must be a picture of 32 x 32 pixels, got "
                    f"{pixels.shape[2]} x {pixels.shape[1]}; give CIFAR's own pictures."
                )
            pictures.append(pixels)
        if pictures:
            names.append(folder.name)
            classes.append(np.stack(pictures))
    counts = {len(pictures) for pictures in classes}
    if len(counts) != 1:
        raise SettingError(
            f"load_cifar_fs: all classes under {root} must have the same number of pictures, got "
            f"{sorted(counts) or 'no picture at all'}; unpack the archive again."
        )
    return ClassImages(np.stack(classes), tuple(names))
