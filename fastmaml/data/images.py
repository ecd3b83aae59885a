"""N-way K-shot tasks over labelled pictures: one gather of uint8 rows per set, no Python loop."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from fastmaml.data.episodes import Episode, distinct
from fastmaml.errors import SettingError


class ImageTasks:
    """N-way K-shot tasks over a set of classes, which rotations can multiply.

    A task takes N different classes, with `rotations` one turn by 0, 90, 180 or 270 degrees for
    each, and `shots` + `query` different pictures of each. Class n of a task has label n. Rows go
    picture by picture: all classes' first picture, then all classes' second, and so on.

    Example:
        >>> import numpy as np, torch
        >>> from fastmaml.data import ImageTasks
        >>> images = np.zeros((8, 20, 3, 32, 32), np.uint8)
        >>> source = ImageTasks(images, ways=5, shots=1, query=15)
        >>> (x, y), (x_query, _) = source.sample(4, torch.Generator().manual_seed(0))
        >>> tuple(x.shape), y[0].tolist(), tuple(x_query.shape)
        ((4, 5, 3, 32, 32), [0, 1, 2, 3, 4], (4, 75, 3, 32, 32))
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        *,
        ways: int,
        shots: int,
        query: int | None = None,
        rotations: bool = False,
        flat: bool = False,
        largest: int = 255,
    ) -> None:
        """Sets the sizes and keeps every picture in every rotation.

        Args:
            images: uint8 [classes, pictures, C, H, W]; H = W with `rotations`.
            ways: N, classes per task.
            shots: K, support pictures per class.
            query: query pictures per class; None takes K, the paper's protocol.
            rotations: turn each class of a task by a random multiple of 90 degrees.
            flat: give rows of C * H * W numbers instead of pictures.
            largest: the pixel value that becomes 1.0.

        Raises:
            SettingError: too few classes or pictures for such tasks.
        """
        name = type(self).__name__
        query = shots if query is None else query
        classes, pictures = images.shape[:2]
        if not 1 <= ways <= classes:
            raise SettingError(
                f"{name}: ways must be 1 to {classes}, the number of classes, got {ways}; "
                "use fewer ways or more classes."
            )
        if shots < 1 or query < 1 or shots + query > pictures:
            raise SettingError(
                f"{name}: shots + query must be 2 to {pictures} (the pictures of a class) "
                f"with at least 1 of each, got {shots} + {query}; lower one of them."
            )
        self.ways, self.shots, self.query = ways, shots, query
        self.classes, self.pictures = classes, pictures
        self.turns = 4 if rotations else 1
        self.row_shape: tuple[int, ...] = images.shape[2:]
        if flat:
            self.row_shape = (int(np.prod(self.row_shape)),)
        turned = [np.rot90(images, turn, axes=(-2, -1)) for turn in range(self.turns)]
        # One row per picture, rotation slowest: a task batch is then a single gather of rows.
        self._rows = torch.from_numpy(np.stack(turned)).view(
            self.turns * classes * pictures, *self.row_shape
        )
        self._scale = 1.0 / largest

    def sample(self, tasks: int, generator: Generator) -> Episode:
        """Draws a batch of tasks.

        Args:
            tasks: T, the number of tasks.
            generator: source of randomness.

        Returns:
            ``(support, query)``: x float32 [T, N * K, C, H, W] in 0..1 ([T, N * K, C * H * W]
            when flat), y int64 [T, N * K].
        """
        ways, shots, pictures = self.ways, self.shots, self.shots + self.query
        picked = distinct(tasks, self.classes, ways, generator)
        if self.turns > 1:
            turn = torch.randint(self.turns, (tasks, ways), generator=generator)
            picked = picked.add_(turn, alpha=self.classes)
        drawn = distinct(tasks * ways, self.pictures, pictures, generator)
        place = drawn.view(tasks, ways, pictures).add_(picked[..., None], alpha=self.pictures)
        place = place.transpose(1, 2)
        return self._gather(place[:, :shots]), self._gather(place[:, shots:])

    def _gather(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures at `place` int64 [T, k, N] as float, with their labels."""
        tasks, count, ways = place.shape
        x = self._rows.index_select(0, place.reshape(-1)).float()
        if self._scale != 1.0:
            x.mul_(self._scale)
        y = torch.arange(ways).repeat(tasks, count)
        return x.view(tasks, count * ways, *self.row_shape), y
