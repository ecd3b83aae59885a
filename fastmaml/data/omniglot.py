"""Omniglot: reading it from an .npz or from the original folders, its split, its few-shot tasks.

Pixels are 1 where there is ink. 105 x 105 drawings become 28 x 28 by taking rows and columns
floor((i + 0.5) * 3.75), which is what the MAML code's resize does to the 1-bit originals.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmaml.data.files import check_names, picture_files, read_arrays, read_lines, read_picture
from fastmaml.data.images import ImageTasks
from fastmaml.errors import SettingError

SIDE = 28
FOLDERS = ("images_background", "images_evaluation")
PAPER_SPLIT = {"train": 1100, "val": 100, "test": 423}
NPZ_NAMES = ("omniglot28_maml.npz", "omniglot.npz")


class OmniglotImages(NamedTuple):
    """All drawings, by class.

    Attributes:
        images: uint8 [classes, drawings, 28, 28], 0..1 or 0..255, larger is more ink.
        names: ``Alphabet/characterNN`` of every class.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]


def load_omniglot(path: str | Path) -> OmniglotImages:
    """Reads Omniglot from an .npz or from the folders of the original download.

    Args:
        path: an .npz with `images` uint8 [classes, drawings, 28, 28] (ink 1 or 255) and
            `class_names`; or a folder that holds one (itself or in ``omniglot/``); or a folder
            with ``images_background`` and ``images_evaluation`` (itself or in ``omniglot-py/``,
            torchvision's layout), which needs Pillow.

    Returns:
        Images and class names. Folders are read in sorted order.

    Raises:
        FileNotFoundError: nothing of the above is there.
        SettingError: the file's arrays have another shape or type, the classes differ in their
            number of drawings, or Pillow is missing.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return _read_npz(root)
    for folder in (root, root / "omniglot", root / "omniglot-py"):
        for name in NPZ_NAMES:
            if (folder / name).is_file():
                return _read_npz(folder / name)
        if any((folder / name).is_dir() for name in FOLDERS):
            return _read_folders(folder)
    raise FileNotFoundError(
        f"load_omniglot: {root} must be an .npz, or a folder with {NPZ_NAMES[0]} or "
        f"{' and '.join(FOLDERS)}; none of them is there, check the path."
    )


def _read_npz(path: Path) -> OmniglotImages:
    wanted = {"images": ("images",), "class_names": ("class_names",)}
    stored = read_arrays("load_omniglot", path, wanted)
    images = stored["images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2:] != (SIDE, SIDE):
        raise SettingError(
            f"load_omniglot: images in {path} must be uint8 [classes, drawings, {SIDE}, {SIDE}], "
            f"got {images.dtype} {list(images.shape)}; give the {SIDE} x {SIDE} file."
        )
    names = check_names("load_omniglot", path, stored["class_names"], len(images))
    return OmniglotImages(images, names)


def _read_folders(root: Path) -> OmniglotImages:
    names: list[str] = []
    classes: list[NDArray[np.uint8]] = []
    for name in FOLDERS:
        # An archive unpacked into a folder of its own name.
        folder = root / name / name if (root / name / name).is_dir() else root / name
        for character in sorted(p for p in folder.glob("*/*") if p.is_dir()):
            drawings = [
                _shrink(read_picture("load_omniglot", file, "L"))
                for file in picture_files(character)
            ]
            if drawings:
                names.append(f"{character.parent.name}/{character.name}")
                classes.append(np.stack(drawings))
    counts = {len(drawings) for drawings in classes}
    if len(counts) != 1:
        raise SettingError(
            f"load_omniglot: all classes under {root} must have the same number of drawings, "
            f"got {sorted(counts) or 'no picture at all'}; unpack the archives again."
        )
    return OmniglotImages(np.stack(classes), tuple(names))


def _shrink(paper: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [H, W], paper 255 and ink 0, to [28, 28], paper 0 and ink 1, by nearest pixels."""
    centre = np.arange(SIDE) + 0.5
    rows = (centre * (paper.shape[0] / SIDE)).astype(int)
    columns = (centre * (paper.shape[1] / SIDE)).astype(int)
    return (paper[np.ix_(rows, columns)] < 128).astype(np.uint8)


def split_classes(
    names: tuple[str, ...], folder: str | Path | None = None
) -> dict[str, NDArray[np.int64]]:
    """Divides the classes into train, val and test.

    Args:
        names: class names, in the order of the images.
        folder: holds train.txt, val.txt and test.txt with one class name a line. None takes the
            rule of the MAML code made repeatable: sorted names, shuffled by
            ``random.Random(1)``, then 1100 / 100 / 423.

    Returns:
        Indices into `names` for "train", "val" and "test".

    Raises:
        SettingError: the rule needs 1623 classes and there are more or fewer, a list names an
            unknown class, or two lists share a class.
        FileNotFoundError: a list is missing.

    Example:
        >>> from fastmaml.data import split_classes
        >>> parts = split_classes(tuple(f"Alphabet/{i:04d}" for i in range(1623)))
        >>> {part: len(classes) for part, classes in parts.items()}
        {'train': 1100, 'val': 100, 'test': 423}
    """
    index = {name: i for i, name in enumerate(names)}
    if folder is None:
        parts = _paper_lists(names)
    else:
        parts = {
            part: read_lines("split_classes", Path(folder).expanduser() / f"{part}.txt")
            for part in PAPER_SPLIT
        }
    result: dict[str, NDArray[np.int64]] = {}
    taken: dict[str, str] = {}
    for part, wanted in parts.items():
        for name in wanted:
            if name not in index:
                raise SettingError(
                    f"split_classes: {part}.txt names {name!r}, which is not among the "
                    f"{len(names)} classes; names look like {names[0]!r}."
                )
            if name in taken:
                raise SettingError(
                    f"split_classes: {name!r} is in {part} and already in {taken[name]}; "
                    "list every class once."
                )
            taken[name] = part
        result[part] = np.array([index[name] for name in wanted], dtype=np.int64)
    return result


def _paper_lists(names: tuple[str, ...]) -> dict[str, list[str]]:
    needed = sum(PAPER_SPLIT.values())
    if len(names) != needed:
        raise SettingError(
            f"split_classes: the paper's split needs {needed} classes, got {len(names)}; give "
            "both image folders, or your own train.txt, val.txt and test.txt."
        )
    order = sorted(names)
    random.Random(1).shuffle(order)
    lists: dict[str, list[str]] = {}
    first = 0
    for part, count in PAPER_SPLIT.items():
        lists[part] = order[first : first + count]
        first += count
    return lists


class OmniglotTasks(ImageTasks):
    """N-way K-shot tasks over Omniglot's classes, each turned by 0, 90, 180 or 270 degrees.

    As `ImageTasks`; pixels are 1 where there is ink.

    Example:
        >>> import numpy as np, torch
        >>> from fastmaml.data import OmniglotTasks
        >>> images = np.zeros((30, 20, 28, 28), np.uint8)
        >>> source = OmniglotTasks(images, ways=5, shots=1)
        >>> (x, y), _ = source.sample(32, torch.Generator().manual_seed(0))
        >>> tuple(x.shape), y[0].tolist()
        ((32, 5, 784), [0, 1, 2, 3, 4])
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        *,
        ways: int,
        shots: int,
        query: int | None = None,
        rotations: bool = True,
        flat: bool = True,
    ) -> None:
        """Sets the sizes and keeps every drawing in every rotation.

        Args:
            images: uint8 [classes, drawings, 28, 28], as in `OmniglotImages`.
            ways: N, classes per task.
            shots: K, support drawings per class.
            query: query drawings per class; None takes K, the paper's protocol.
            rotations: False leaves the drawings upright.
            flat: rows of 784 numbers; False gives [1, 28, 28], for convolutions.

        Raises:
            SettingError: too few classes or drawings for such tasks.
        """
        super().__init__(
            images[:, :, None],
            ways=ways,
            shots=shots,
            query=query,
            rotations=rotations,
            flat=flat,
            largest=255 if images.size and images.max() > 1 else 1,
        )
