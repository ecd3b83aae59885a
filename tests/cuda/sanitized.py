"""Every op's device code once, for compute-sanitizer: `python sanitized.py`, or `run` in a test.

It compares nothing: the other tests do, and the sanitizer makes everything slow.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "cuda")]

import torch  # noqa: E402
from op_cases import CASES, LOSSES, Net  # noqa: E402
from place import Place  # noqa: E402
from test_ops import RATE, data  # noqa: E402
from torch import nn  # noqa: E402

from fastmaml.engine.core import using  # noqa: E402


def run(place: Place) -> int:
    """A meta-step of every case in either dtype, resident where it can be and as launches.

    Returns:
        How many ran.
    """
    todo = [(case.model(), nn.MSELoss()) for case in CASES]
    todo += [(Net(torch.tanh), loss) for loss in LOSSES]
    count = 0
    for model, loss in todo:
        tasks = data(loss)
        for dtype in (torch.float32, torch.float64):
            for team in (0, 2):
                with using(team=team):
                    place.answer(model, tasks, dtype, loss=loss, inner_lr=RATE, inner_steps=2)
                count += 1
    return count


if __name__ == "__main__":
    print(run(Place(torch.device("cuda", 0))), "meta-steps")
