"""The MAML meta-step at the speed of the machine, for ordinary ``torch.nn.Module``s.

Model-Agnostic Meta-Learning (Finn, Abbeel, Levine 2017): one call, `meta_step`, fills the
parameters' ``.grad`` with the exact second-order meta-gradient of a batch of tasks.
"""

from importlib.metadata import version

from . import reference
from .calls.describe import describe, workspace_bytes
from .calls.evaluate import evaluate
from .calls.meta import adapt, meta_loss, meta_step
from .calls.verify import verify
from .errors import (
    BackendError,
    DeviceError,
    DtypeError,
    InternalError,
    SettingError,
    ShapeError,
    UnsupportedModelError,
)
from .results import AdaptedTasks, MetaStepResult
from .threads import get_num_threads, set_num_threads

__version__ = version("fastmaml")

__all__ = [
    "AdaptedTasks",
    "BackendError",
    "DeviceError",
    "DtypeError",
    "InternalError",
    "MetaStepResult",
    "SettingError",
    "ShapeError",
    "UnsupportedModelError",
    "adapt",
    "describe",
    "evaluate",
    "get_num_threads",
    "meta_loss",
    "meta_step",
    "reference",
    "set_num_threads",
    "verify",
    "workspace_bytes",
]
