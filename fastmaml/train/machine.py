"""What a run was made with: versions, processor, threads, CUDA."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch


def versions() -> dict[str, str]:
    """Versions of what takes part in a run, by name."""
    import fastmaml

    return {
        "fastmaml": str(fastmaml.__version__),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def machine() -> dict[str, Any]:
    """The system, with what the engine says about itself and its threads."""
    from fastmaml.engine import binding
    from fastmaml.threads import get_num_threads

    return {
        "system": f"{platform.system()} {platform.machine()}",
        **binding.info(),
        "threads": f"{get_num_threads()} of {os.cpu_count()} processors",
    }
