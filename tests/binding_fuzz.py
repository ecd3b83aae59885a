"""Random arguments of the compiled module itself: it may raise, and the process must survive."""

from __future__ import annotations

import random
from typing import Any

import torch
from hostile_tensors import OBJECTS, hostile, is_ordinary
from torch import Tensor

from fastmaml import _C

__all__ = ["BindingCase"]

NUMBERS: list[Any] = [
    -1, 0, 1, 2, 3, 7, -(2**31), 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), 2**64, 1.5,
    None, "a", True,
]  # fmt: skip
ATTRS = ["dims", "groups", "eps", "kernel", "stride", "padding", "negative_slope", "batch_stats",
         "kernel_h", "kernel_w", "stride_h", "pad_h", "dilation_h", "to_last", "sum"]  # fmt: skip
OPS = [*_C.op_names(), "reshape", "moments", "contract", "nope"]
T, S, Q, I, H, O = 2, 3, 4, 4, 5, 3  # noqa: E741


class BindingCase:
    """One call of a function of the module."""

    name = "binding"

    def __init__(self, seed: int) -> None:
        """Draw it."""
        self.draw = random.Random(seed)
        torch.manual_seed(seed)

    def number(self, good: int, share: float = 0.15) -> Any:
        """A number, or what is none."""
        return self.draw.choice(NUMBERS) if self.draw.random() < share else good

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32, share: float = 0.06) -> Any:
        """A tensor, or something else."""
        good = torch.zeros(shape, dtype=dtype)
        if self.draw.random() >= share:
            return good
        made = hostile(self.draw, good)
        return made if not isinstance(made, Tensor) or is_ordinary(made) else good

    def numbers(self, *good: int) -> list[Any]:
        """Sizes."""
        shape = [self.number(size, 0.02) for size in good]
        if self.draw.random() < 0.02:
            shape = shape[1:]
        if self.draw.random() < 0.02:
            shape = [*shape, 2]
        return shape

    def node(self, op: str, inputs: list[int], params: list[int], shape: list[int]) -> Any:
        """A layer."""
        draw = self.draw
        if draw.random() < 0.05:
            op = draw.choice(OPS)
        attrs = {}
        for _ in range(draw.choice((0, 0, 0, 1, 3))):
            attrs[draw.choice(ATTRS)] = draw.choice(
                [0.0, 1.0, 2.0, -1.0, 1e9, 1e300, float("nan"), float("inf"), 3.0]
            )
        return _C.NodeSpec(
            op, self.numbers(*inputs), self.numbers(*params), attrs, self.numbers(*shape), "layer"
        )

    def plan(self) -> Any:
        """A plan of a small perceptron, or of something else."""
        draw = self.draw
        shapes = [(H, I), (H,), (O, H), (O,)]
        tensors = [
            _C.TensorSpec(f"t{i}", self.numbers(*s), True, True) for i, s in enumerate(shapes)
        ]
        nodes = [
            self.node("linear", [0], [0, 1], [H]),
            self.node("tanh", [1], [], [H]),
            self.node("linear", [2], [2, 3], [O]),
        ]
        loss = draw.choice(["cross_entropy"] * 5 + ["mse", "bce_with_logits", "nope"])
        self.loss = loss
        self.mode = draw.choice(["meta_step"] * 3 + ["evaluate", "curve", "adapt"])
        self.steps, self.rate_grad = draw.choice((0, 1, 2)), draw.random() < 0.3
        network = _C.NetworkSpec(
            self.numbers(I), tensors, nodes, self.number(3, 0.02),
            _C.NodeSpec(loss, [], [], {}, [], loss),
        )  # fmt: skip
        settings: dict[Any, Any] = {
            "mode": self.mode, "float64": False, "support_rows": self.number(S, 0.02),
            "query_rows": self.number(Q, 0.02), "inner_steps": self.number_of_steps(),
            "first_order": draw.random() < 0.3, "rate_grad": self.rate_grad,
            "recompute": draw.random() < 0.3, "factored": self.number(-1, 0.03),
            "winograd": self.number(-1, 0.03), "moment_bytes": self.number(-1, 0.03),
            "device": draw.random() < 0.1, "run_pixels": self.number(512, 0.03),
            "most_bytes": 0, "tf32": draw.random() < 0.03,
        }  # fmt: skip
        if draw.random() < 0.03:
            settings.pop(draw.choice([*settings]))
        if draw.random() < 0.03:
            settings[draw.choice(["lanes", 1, None, "", "\udc80"])] = 1
        if draw.random() < 0.03:
            settings[draw.choice([*settings])] = draw.choice(OBJECTS)()
        return _C.Plan(network, settings if draw.random() < 0.98 else draw.choice(OBJECTS)())

    def number_of_steps(self) -> Any:
        """The number of inner steps; a large one is a large program."""
        bad = self.draw.random() < 0.03
        return self.draw.choice([-1, -(2**31), "a", None]) if bad else self.steps

    def call(self) -> None:
        """Make the call."""
        draw = self.draw
        kind = draw.randrange(6)
        if kind < 3:
            self.run_plan(self.plan())
        elif kind == 3:
            plan = self.plan()
            method = draw.choice(
                ["workspace_bytes", "device_workspace_bytes", "describe", "flops", "device_cost",
                 "describe_device", "device_tables", "output_shape"]
            )  # fmt: skip
            count = {"flops": 1, "device_tables": 0, "output_shape": 0, "device_workspace_bytes": 2,
                     "device_cost": 4, "describe_device": 4}.get(method, 3)  # fmt: skip
            getattr(plan, method)(*(self.number(1, 0.5) for _ in range(count)))
        elif kind == 4:
            many = [self.tensor(2, share=0.3) for _ in range(draw.randrange(4))]
            shapes = [getattr(t, "shape", (2,)) if draw.random() < 0.8 else draw.choice(OBJECTS)()
                      for t in many] if draw.random() < 0.8 else []  # fmt: skip
            _C.fitting(many, shapes, self.tensor(1))
            _C.Tensors(many)
            _C.readable(draw.choice([*many, None, 1]))
        else:
            self.functions()

    def data(self) -> None:
        """The door's questions about data."""
        draw = self.draw
        y = {"dtype": torch.int64} if draw.random() < 0.7 else {}
        pairs: list[Any] = [
            [self.tensor(T, rows, I, share=0.1), self.tensor(T, rows, share=0.2, **y)]
            for rows in (S, Q)
        ]
        output = draw.choice([(O,), (O,), (), (1, O), (2**62,), (2**70,), ("a",), None])
        _C.targets_fit(output, pairs[0][1], pairs[1][1], draw.random() < 0.7)
        if draw.random() < 0.1:
            pairs[draw.randrange(2)] = draw.choice(OBJECTS)()
        dtype = draw.choice([torch.float32, torch.float32, torch.float64, torch.half, None])
        device = draw.choice([*[torch.device("cpu")] * 4, torch.device("cuda:99"), "cpu", None])
        _C.passing(*pairs, dtype, device, draw.random() < 0.7, draw.random() < 0.2)

    def functions(self) -> None:
        """A function that stands alone."""
        draw, pick = self.draw, self.draw.choice(OBJECTS)
        which = draw.randrange(6)
        if which == 0:
            self.data()
        elif which == 1:
            _C.peak_flops(False, draw.choice([-1, 0, 2**31 - 1, 2**31, None, "a", 5000]))
        elif which == 2:
            _C.force_instruction_set(draw.choice(["nope", "", "\0", None, 3]))
        elif which == 3:
            _C.device_shared_limit(self.number(0, 0.8))
        elif which == 4:
            owners = [torch.nn.Parameter(torch.zeros(2)), self.tensor(2, share=0.5)]
            grads = [hostile(draw, torch.zeros(2)), torch.zeros(2)]
            _C.give_grads(owners, grads[: draw.choice((2, 2, 2, 1))])
        else:
            live = draw.choice([{"a": 1}, {}, pick(), [1]])
            parts: list[Any] = [[(live, draw.choice([live, {"a": 1}, {}, pick()]))], [], [], [], []]
            draw.shuffle(parts)
            if draw.random() < 0.3:
                parts[draw.randrange(5)] = draw.choice([[1], [(1,)], [(1, 2, 3)], [pick()], None])
            _C.Snapshot(*parts).holds()

    def run_plan(self, plan: Any) -> None:
        """Run one."""
        draw = self.draw
        classes = self.loss == "cross_entropy"
        y = {"dtype": torch.int64} if classes else {}
        target = () if classes else (O,)
        shapes = [(H, I), (H,), (O, H), (O,)]
        points = (self.steps + 1,) if self.mode == "curve" else ()
        outputs = {"meta_step": shapes, "adapt": [(T, *s) for s in shapes]}.get(self.mode, [])
        size = plan.workspace_bytes(T, 1)
        place = _C.Place()
        if draw.random() < 0.1:
            tables = draw.choice([None, torch.zeros(9, dtype=torch.uint8)])
            place = _C.Place(self.number(-1), 0, tables, self.number(0), draw.random() < 0.5)
        arguments: list[Any] = [
            self.number(T, 0.05), self.number(1, 0.05), self.number(0, 0.05),
            self.tensor(T, S, I), self.tensor(T, S, *target, **y),
            self.tensor(T, Q, I), self.tensor(T, Q, *target, **y),
            [0.1] * (self.steps if draw.random() < 0.95 else 5),
            [self.tensor(*s) for s in shapes], [self.tensor(*s) for s in outputs],
            self.tensor(T, *points), self.tensor(T, *points, Q, O),
            self.tensor(T, self.steps) if self.rate_grad else None,
            self.tensor(size, dtype=torch.uint8), self.number(size, 0.05), place,
            None if draw.random() < 0.95 else self.tensor(8),
        ]  # fmt: skip
        if draw.random() < 0.1:
            arguments[draw.randrange(len(arguments))] = draw.choice(OBJECTS)()
        (plan.run if draw.random() < 0.7 else plan.profile)(*arguments)

    def run(self) -> str:
        """What came of it."""
        try:
            self.call()
        except AssertionError as error:
            return f"AssertionError: {error}"
        except Exception:
            return "raised"
        return "returned"
