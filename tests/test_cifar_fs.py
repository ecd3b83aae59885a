"""CIFAR-FS: what the loader reads, and what it says about files that do not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from fastmaml.data import ImageTasks, load_cifar_fs
from fastmaml.errors import SettingError

PARTS = {"train": 3, "val": 2, "test": 2}


def pictures(classes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (classes, 4, 3, 32, 32), dtype=np.uint8)


def names(part: str) -> list[str]:
    return [f"{part}{i}" for i in range(PARTS[part])]


def differences(images: np.ndarray) -> np.ndarray:
    """What `images_delta` holds: red and blue less green, then differences along W and H."""
    stored = images.copy()
    stored[:, :, ::2] -= images[:, :, 1:2]
    for axis in (-1, -2):
        stored = np.diff(stored, axis=axis, prepend=np.uint8(0))
    return stored


def write_npz(folder: Path, key: str = "images") -> dict[str, np.ndarray]:
    written = {}
    for seed, (part, classes) in enumerate(PARTS.items()):
        written[part] = images = pictures(classes, seed)
        stored = {key: differences(images) if key == "images_delta" else images}
        np.savez(folder / f"cifar_fs_{part}.npz", class_names=names(part), **stored)
    return written


def write_pictures(folder: Path, images: np.ndarray, labels: list[str]) -> None:
    image_module = pytest.importorskip("PIL.Image")
    for label, shown in zip(labels, images, strict=True):
        (folder / label).mkdir(parents=True)
        for number, picture in enumerate(shown):
            pixels = np.ascontiguousarray(picture.transpose(1, 2, 0))
            image_module.fromarray(pixels).save(folder / label / f"{number}.png")


@pytest.mark.parametrize("key", ["images", "images_delta"])
def test_archives_give_pictures_and_split(tmp_path: Path, key: str) -> None:
    (tmp_path / "cifar_fs").mkdir()
    written = write_npz(tmp_path / "cifar_fs", key)
    for path in (tmp_path, tmp_path / "cifar_fs"):
        loaded = load_cifar_fs(path)
        assert list(loaded) == ["train", "val", "test"]
        for part, images in written.items():
            assert np.array_equal(loaded[part].images, images)
            assert loaded[part].names == tuple(names(part))


def test_folders_of_pictures_by_part(tmp_path: Path) -> None:
    for seed, part in enumerate(PARTS):
        write_pictures(tmp_path / part, pictures(PARTS[part], seed), names(part))
    loaded = load_cifar_fs(tmp_path)
    for seed, part in enumerate(PARTS):
        assert np.array_equal(loaded[part].images, pictures(PARTS[part], seed))


def test_folders_of_pictures_by_lists(tmp_path: Path) -> None:
    images = pictures(4, 0)
    write_pictures(tmp_path / "cifar100" / "data", images, list("abcd"))
    with pytest.raises(FileNotFoundError, match="check the path or give --split"):
        load_cifar_fs(tmp_path)
    lists = tmp_path / "cifar100" / "splits" / "bertinetto"
    lists.mkdir(parents=True)
    for part, text in {"train": "d\na", "val": "b", "test": "c"}.items():
        (lists / f"{part}.txt").write_text(text)
    for loaded in (load_cifar_fs(tmp_path), load_cifar_fs(tmp_path, lists)):
        assert loaded["train"].names == ("d", "a")
        assert np.array_equal(loaded["train"].images, images[[3, 0]])
        assert np.array_equal(loaded["test"].images, images[[2]])


def test_archives_can_be_split_anew(tmp_path: Path) -> None:
    written = write_npz(tmp_path)
    for part, text in {"train": "test1\ntrain0", "val": "val0", "test": "train2"}.items():
        (tmp_path / f"{part}.txt").write_text(text)
    loaded = load_cifar_fs(tmp_path, tmp_path)
    assert np.array_equal(loaded["train"].images[0], written["test"][1])
    assert loaded["test"].names == ("train2",)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none of them is there"):
        load_cifar_fs(tmp_path)
    write_npz(tmp_path)
    target = tmp_path / "cifar_fs_test.npz"
    np.savez(target, images=pictures(2, 0), class_names=["train0", "x"])
    with pytest.raises(SettingError, match="'train0' is in two"):
        load_cifar_fs(tmp_path)
    np.savez(target, images=pictures(2, 0), class_names=["x"])
    with pytest.raises(SettingError, match="name 2 classes, got 1"):
        load_cifar_fs(tmp_path)
    np.savez(target, images=pictures(2, 0)[:, :, :1], class_names=["x", "y"])
    with pytest.raises(SettingError, match=r"got uint8 \[2, 4, 1, 32, 32\]"):
        load_cifar_fs(tmp_path)
    np.savez(target, pixels=pictures(2, 0))
    with pytest.raises(SettingError, match="with the arrays images"):
        load_cifar_fs(tmp_path)


def test_pictures_of_other_sizes_and_counts_are_refused(tmp_path: Path) -> None:
    for seed, part in enumerate(PARTS):
        write_pictures(tmp_path / part, pictures(PARTS[part], seed), names(part))
    (tmp_path / "val" / "val0" / "0.png").unlink()
    with pytest.raises(SettingError, match=r"same number of pictures, got \[3, 4\]"):
        load_cifar_fs(tmp_path)
    image_module = pytest.importorskip("PIL.Image")
    image_module.new("RGB", (84, 83)).save(tmp_path / "val" / "val0" / "0.png")
    with pytest.raises(SettingError, match="of 32 x 32 pixels, got 84 x 83"):
        load_cifar_fs(tmp_path)


def test_tasks_are_gathered_from_the_right_pictures() -> None:
    images = pictures(9, 0)
    source = ImageTasks(images, ways=3, shots=1, query=2)
    support, query = source.sample(50, Generator().manual_seed(0))
    assert support[0].shape == (50, 3, 3, 32, 32)
    assert query[0].shape == (50, 6, 3, 32, 32)
    assert query[1][0].tolist() == [0, 1, 2, 0, 1, 2]
    assert support[0].max() <= 1
    known = {picture.tobytes(): i // 4 for i, picture in enumerate(images.reshape(-1, 3, 32, 32))}
    rows = (torch.cat([support[0], query[0]], 1) * 255).round().to(torch.uint8)
    for task in rows:
        keys = [picture.numpy().tobytes() for picture in task]
        assert len(set(keys)) == 9
        labels = [known[key] for key in keys]
        assert labels == labels[:3] * 3
        assert len(set(labels)) == 3


def test_real_cifar_fs(data_dir: Path) -> None:
    loaded = load_cifar_fs(data_dir)
    assert [len(part.names) for part in loaded.values()] == [64, 16, 20]
    assert len({name for part in loaded.values() for name in part.names}) == 100
    pixels = loaded["train"].images / 255.0
    assert np.allclose(pixels.mean(axis=(0, 1, 3, 4)), (0.507, 0.487, 0.441), atol=0.03)
    steps = np.abs(np.diff(pixels[:, ::16], axis=-1)).mean()
    assert steps < 0.1, "pictures are smooth once decoded"
