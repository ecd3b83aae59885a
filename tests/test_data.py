"""Task sources: what they draw, that they repeat, what they say about data that does not fit."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from fastmaml.data import (
    OmniglotTasks,
    SinusoidTasks,
    distinct,
    episodes,
    load_omniglot,
    split_classes,
)
from fastmaml.errors import SettingError

CLASSES, DRAWINGS = 40, 20


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def coded_images() -> np.ndarray:
    """Drawings whose first rows spell class (6 bits) and drawing (5 bits); the corner is lit."""
    images = np.zeros((CLASSES, DRAWINGS, 28, 28), np.uint8)
    for bit in range(6):
        images[:, :, 0, 2 + bit] = (np.arange(CLASSES)[:, None] >> bit) & 1
    for bit in range(5):
        images[:, :, 0, 12 + bit] = (np.arange(DRAWINGS)[None] >> bit) & 1
    images[:, :, 0, 0] = 1
    return images


def decode(x: torch.Tensor) -> np.ndarray:
    """Class, drawing and number of turns of every row of x [..., 784]; int [..., 3]."""
    found = []
    for picture in x.reshape(-1, 28, 28).numpy().astype(int):
        corners = [picture[0, 0], picture[27, 0], picture[27, 27], picture[0, 27]]
        turns = corners.index(1)
        upright = np.rot90(picture, -turns)
        bits = 2 ** np.arange(6)
        found.append((upright[0, 2:8] @ bits, upright[0, 12:17] @ bits[:5], turns))
    return np.array(found).reshape(*x.shape[:-1], 3)


def test_sinusoid_points_lie_on_waves_of_the_papers_ranges() -> None:
    source = SinusoidTasks(shots=3, query=4)
    (support, query), waves = source.draw(4000, seeded())
    for x, y in (support, query):
        assert x.dtype == y.dtype == torch.float32
        assert torch.equal(y, waves.amplitude * torch.sin(x - waves.phase))
        assert -5 <= x.min() < -4.99
        assert 4.99 < x.max() <= 5
    assert support[0].shape == (4000, 3, 1)
    assert query[1].shape == (4000, 4, 1)
    assert 0.1 <= waves.amplitude.min() < 0.11
    assert 4.99 < waves.amplitude.max() <= 5
    assert 0 <= waves.phase.min() < 0.01
    assert 3.13 < waves.phase.max() <= torch.pi


def test_sinusoid_grid_is_the_same_for_every_task() -> None:
    _, (x, _) = SinusoidTasks(5, 11, grid=True).sample(3, seeded())
    assert torch.equal(x, torch.linspace(-5, 5, 11)[:, None].expand(3, 11, 1))


@pytest.mark.parametrize(("shots", "query"), [(0, 5), (5, 0), (-1, 5)])
def test_sinusoid_sizes(shots: int, query: int) -> None:
    with pytest.raises(SettingError, match=f"at least 1, got {shots} and {query}"):
        SinusoidTasks(shots, query)


@pytest.mark.parametrize(("members", "draws"), [(1100, 5), (20, 2), (20, 10), (4, 4), (1, 1)])
def test_distinct_draws_are_distinct_and_even(members: int, draws: int) -> None:
    rows = 3000
    picks = distinct(rows, members, draws, seeded())
    assert picks.shape == (rows, draws)
    ordered = picks.sort(dim=1).values
    assert (ordered[:, 1:] > ordered[:, :-1]).all()
    for place in range(draws):
        counts = torch.bincount(picks[:, place], minlength=members).double()
        expected = rows / members
        # Six deviations of a binomial count: never by chance, and any bias towards a place shows.
        assert (counts - expected).abs().max() <= 6 * expected**0.5 + 1


def test_distinct_needs_enough_members() -> None:
    with pytest.raises(SettingError, match="at most members=3, got 4"):
        distinct(2, 3, 4, seeded())


def test_omniglot_tasks_take_distinct_classes_and_drawings() -> None:
    source = OmniglotTasks(coded_images(), ways=5, shots=2, query=3)
    (x_s, y_s), (x_q, y_q) = source.sample(200, seeded())
    assert x_s.dtype == torch.float32
    assert y_s.dtype == torch.int64
    assert x_s.shape == (200, 10, 784)
    assert x_q.shape == (200, 15, 784)
    assert y_s[0].tolist() == list(range(5)) * 2
    assert y_q[7].tolist() == list(range(5)) * 3
    codes = np.concatenate([decode(x_s), decode(x_q)], axis=1)
    by_class = codes.reshape(200, 5, 5, 3).swapaxes(1, 2)  # [task, way, drawing, code]
    assert (by_class[..., 0] == by_class[:, :, :1, 0]).all(), "one class per label"
    assert (by_class[..., 2] == by_class[:, :, :1, 2]).all(), "one rotation per class and task"
    for task in by_class:
        assert len({way[0, 0] for way in task}) == 5
        assert all(len(set(way[:, 1])) == 5 for way in task), "query drawings are new"
    assert set(by_class[..., 0].ravel()) == set(range(CLASSES))
    assert set(by_class[..., 1].ravel()) == set(range(DRAWINGS))
    turns = np.bincount(by_class[:, :, 0, 2].ravel(), minlength=4)
    assert turns.min() > 200


def test_omniglot_query_defaults_to_shots_and_rotations_can_be_off() -> None:
    source = OmniglotTasks(coded_images(), ways=CLASSES, shots=4, rotations=False)
    support, query = source.sample(2, seeded())
    assert support[0].shape == query[0].shape == (2, 4 * CLASSES, 784)
    assert not decode(support[0])[..., 2].any()


def test_grey_images_are_scaled_to_one() -> None:
    images = coded_images() * 255
    (x, _), _ = OmniglotTasks(images, ways=3, shots=1).sample(2, seeded())
    assert set(x.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    "source",
    [SinusoidTasks(3, 2), OmniglotTasks(coded_images(), ways=5, shots=1)],
    ids=["sinusoid", "omniglot"],
)
def test_same_seed_same_tasks(source: SinusoidTasks | OmniglotTasks) -> None:
    one, two, other = (list(episodes(source, tasks=7, batch=3, seed=seed)) for seed in (5, 5, 6))
    assert [len(support[0]) for support, _ in one] == [3, 3, 1]
    for (s1, q1), (s2, q2) in zip(one, two, strict=True):
        assert all(map(torch.equal, (*s1, *q1), (*s2, *q2)))
    assert not torch.equal(one[0][0][0], other[0][0][0])


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"ways": 41, "shots": 1}, "ways must be 1 to 40, the number of classes, got 41"),
        ({"ways": 0, "shots": 1}, "got 0"),
        ({"ways": 5, "shots": 11}, r"shots \+ query must be 2 to 20 .* got 11 \+ 11"),
        ({"ways": 5, "shots": 0}, r"got 0 \+ 0"),
        ({"ways": 5, "shots": 1, "query": 0}, r"got 1 \+ 0"),
    ],
)
def test_omniglot_sizes(sizes: dict[str, int], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        OmniglotTasks(coded_images(), **sizes)


def test_episodes_needs_tasks() -> None:
    with pytest.raises(SettingError, match="at least 1, got 0 and 5"):
        next(episodes(SinusoidTasks(1, 1), tasks=0, batch=5, seed=0))


def write_npz(path: Path, images: np.ndarray, names: list[str]) -> Path:
    np.savez(path, images=images, class_names=np.array(names))
    return path


def test_npz_is_found_by_file_folder_and_parent(tmp_path: Path) -> None:
    folder = tmp_path / "omniglot"
    folder.mkdir()
    names = [f"A/{i}" for i in range(CLASSES)]
    file = write_npz(folder / "omniglot28_maml.npz", coded_images(), names)
    for path in (file, folder, tmp_path, str(tmp_path)):
        loaded = load_omniglot(path)
        assert np.array_equal(loaded.images, coded_images())
        assert loaded.names == tuple(names)


def test_folders_of_png_are_shrunk_to_ink_one(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="reading PNG needs Pillow")
    ink = np.random.default_rng(0).random((2, 3, 105, 105)) < 0.3
    places = ["images_background/Zed/character01", "images_evaluation/Abc/character02"]
    for place, drawings in zip(places, ink, strict=True):
        folder = tmp_path / "omniglot-py" / place
        folder.mkdir(parents=True)
        for number, drawing in enumerate(drawings):
            image_module.fromarray(~drawing).save(folder / f"0001_{number + 1:02d}.png")
    rows = [int((i + 0.5) * 3.75) for i in range(28)]
    for path in (tmp_path, tmp_path / "omniglot-py"):
        loaded = load_omniglot(path)
        assert loaded.names == ("Zed/character01", "Abc/character02")
        assert np.array_equal(loaded.images, ink[:, :, rows][:, :, :, rows])
    (tmp_path / "omniglot-py" / places[0] / "0001_01.png").unlink()
    with pytest.raises(SettingError, match=r"same number of drawings, got \[2, 3\]"):
        load_omniglot(tmp_path)


def test_unreadable_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none of them is there"):
        load_omniglot(tmp_path)
    (tmp_path / "images_background").mkdir()
    with pytest.raises(SettingError, match="no picture at all"):
        load_omniglot(tmp_path)
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    with pytest.raises(SettingError, match="with the arrays images and class_names"):
        load_omniglot(text)
    packed = write_npz(tmp_path / "packed.npz", np.zeros((3, 20, 105, 14), np.uint8), ["a"] * 3)
    with pytest.raises(SettingError, match=r"got uint8 \[3, 20, 105, 14\]"):
        load_omniglot(packed)
    short = write_npz(tmp_path / "short.npz", coded_images(), ["a"])
    with pytest.raises(SettingError, match="name 40 classes, got 1"):
        load_omniglot(short)


def test_default_split_is_the_shuffled_sorted_list() -> None:
    names = [f"class{i:04d}" for i in range(1623)]
    order = list(names)
    random.Random(1).shuffle(order)
    shown = list(reversed(names))
    parts = split_classes(tuple(shown))
    got = [shown[i] for part in ("train", "val", "test") for i in parts[part]]
    assert got == order
    assert [len(parts[part]) for part in ("train", "val", "test")] == [1100, 100, 423]
    with pytest.raises(SettingError, match="needs 1623 classes, got 964"):
        split_classes(tuple(names[:964]))


def test_split_from_lists(tmp_path: Path) -> None:
    for part, text in {"train": "b\na\n", "val": "c\n\n", "test": " d \n"}.items():
        (tmp_path / f"{part}.txt").write_text(text)
    parts = split_classes(("a", "b", "c", "d", "e"), tmp_path)
    assert {part: classes.tolist() for part, classes in parts.items()} == {
        "train": [1, 0],
        "val": [2],
        "test": [3],
    }
    (tmp_path / "val.txt").write_text("a\n")
    with pytest.raises(SettingError, match="'a' is in val and already in train"):
        split_classes(("a", "b", "c", "d"), tmp_path)
    (tmp_path / "val.txt").write_text("x\n")
    with pytest.raises(SettingError, match=r"val\.txt names 'x'"):
        split_classes(("a", "b", "c", "d"), tmp_path)
    (tmp_path / "val.txt").unlink()
    with pytest.raises(FileNotFoundError):
        split_classes(("a", "b", "c", "d"), tmp_path)


@pytest.mark.skipif("FASTMAML_DATA" not in os.environ, reason="FASTMAML_DATA names no data folder")
def test_real_omniglot_is_complete() -> None:
    loaded = load_omniglot(os.environ["FASTMAML_DATA"])
    assert loaded.images.shape == (1623, 20, 28, 28)
    assert len(set(loaded.names)) == 1623
    assert set(np.unique(loaded.images)) == {0, 1}
    assert 0.03 < loaded.images.mean() < 0.2, "ink is the smaller part and must be 1"
    assert sum(map(len, split_classes(loaded.names).values())) == 1623
