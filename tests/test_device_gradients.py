"""The meta-gradient of random networks by device code, against double backward in float64.

The networks and what is asked of them are those of test_meta_gradients and test_conv_gradients.
"""

from __future__ import annotations

import pytest
import roles
import test_conv_gradients
import test_meta_gradients
from device_code import ORDERS, TEAMS, on_fibers
from forced import Force


def test_random_networks_agree() -> None:
    with on_fibers(ORDERS[2]):
        test_meta_gradients.all_agree(12)


def test_random_conv_networks_agree() -> None:
    with on_fibers(ORDERS[1]):
        test_conv_gradients.all_agree(6)


@pytest.mark.parametrize("factored", [0, 1], ids=["dense", "factored"])
def test_both_forms_of_wide_weights_agree(factored: int, force: Force) -> None:
    force(factored=factored)
    with on_fibers():
        test_meta_gradients.all_agree(6)


def test_any_roles_agree() -> None:
    with on_fibers(ORDERS[3]):
        for seed in range(12):
            roles.agrees(roles.drawn(seed))


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids="{0[0]} {0[1]}".format)
def test_many_random_networks_agree(order: tuple[str, int]) -> None:
    with on_fibers(order, TEAMS[order[1]]):
        test_meta_gradients.all_agree(30)
        test_conv_gradients.all_agree(12)
