"""The list of contestants."""

from __future__ import annotations

from benchmarks.rivals.base import Rival
from benchmarks.rivals.higher_loop import Higher
from benchmarks.rivals.jax_devices import JaxMapDevices
from benchmarks.rivals.jax_forms import DIRECT_FORMS, IM2COL_FORMS
from benchmarks.rivals.ours import Fastmaml
from benchmarks.rivals.pytorch import PytorchLoop, TorchFunc

OURS = Fastmaml.name

_CLASSES: tuple[type[Rival], ...] = (
    Fastmaml,
    PytorchLoop,
    TorchFunc,
    Higher,
    *DIRECT_FORMS,
    JaxMapDevices,
    *IM2COL_FORMS,
)
CONTESTANTS: dict[str, type[Rival]] = {cls.name: cls for cls in _CLASSES}

# Asked for by --all-forms: unrolling every task makes XLA compile for up to a minute per program,
# and `lax.map` over scanned steps was never faster than over unrolled ones by more than noise.
SECONDARY = tuple(
    form.name
    for form in (*DIRECT_FORMS, *IM2COL_FORMS)
    if form.tasks_by == "loop" or (form.tasks_by == "map" and form.scan_steps)
)


def select(names: list[str] | None, *, all_forms: bool) -> list[type[Rival]]:
    """The contestants of a run.

    Args:
        names: Those to take, or None for all.
        all_forms: Whether the secondary forms take part when no names are given.

    Returns:
        Their classes, ours first.

    Raises:
        ValueError: A name is unknown.
    """
    if names is None:
        return [c for n, c in CONTESTANTS.items() if all_forms or n not in SECONDARY]
    unknown = sorted(set(names) - set(CONTESTANTS))
    if unknown:
        raise ValueError(
            f"contestants must be among {', '.join(CONTESTANTS)}, got {', '.join(unknown)}."
        )
    return [c for n, c in CONTESTANTS.items() if n in names]
