from typing import Any

import torch
from torch import Tensor

class TensorSpec:
    def __init__(self, name: str, shape: list[int], adapted: bool, trained: bool) -> None: ...

class NodeSpec:
    def __init__(
        self,
        op: str,
        inputs: list[int],
        params: list[int],
        attrs: dict[str, float],
        shape: list[int],
        name: str,
    ) -> None: ...

class NetworkSpec:
    def __init__(
        self,
        row_shape: list[int],
        tensors: list[TensorSpec],
        nodes: list[NodeSpec],
        output: int,
        loss: NodeSpec,
    ) -> None: ...

class Place:
    def __init__(
        self,
        device: int = -1,
        stream: int = 0,
        tables: Tensor | None = None,
        team: int = 0,
        all_threads: bool = False,
    ) -> None: ...

class InstructionTime:
    label: str
    seconds: float
    flops: float

class KindCost:
    kind: str
    instructions: int
    flops: float
    bytes: float

class DeviceCost:
    obstacle: str
    launches: int
    kernels: int
    rounds: int
    flops: float
    bytes: float
    workspace_bytes: int
    block_bytes: int
    kinds: list[KindCost]

class Tensors:
    def __init__(self, tensors: list[Tensor]) -> None: ...

class Snapshot:
    def __init__(
        self,
        equal: list[tuple[Any, Any]],
        same: list[tuple[dict[str, Any], dict[str, Any]]],
        empty: list[Any],
        flags: list[tuple[Tensor, bool]],
        items: list[tuple[Any, str, Any]],
    ) -> None: ...
    def holds(self) -> bool: ...

class Plan:
    def __init__(self, network: NetworkSpec, settings: dict[str, Any]) -> None: ...
    def workspace_bytes(self, tasks: int, threads: int, lanes: int = 0) -> int: ...
    def program_bytes(self) -> int: ...
    def device_program_bytes(self) -> int: ...
    def device_workspace_bytes(self, tasks: int, lanes: int = 0) -> int: ...
    def device_tables(self) -> bytes: ...
    def device_cost(self, tasks: int, lanes: int, team: int, shared_limit: int) -> DeviceCost: ...
    def describe_device(self, tasks: int, lanes: int, team: int, shared_limit: int) -> str: ...
    def describe(self, tasks: int, threads: int, lanes: int = 0) -> str: ...
    def flops(self, tasks: int) -> float: ...
    def output_shape(self) -> list[int]: ...
    def scalars(self, tasks: int) -> list[tuple[float, int]]: ...
    def run(
        self,
        tasks: int,
        threads: int,
        lanes: int,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        rates: list[float],
        tensors: Tensors | list[Tensor],
        outputs: list[Tensor],
        task_losses: Tensor,
        logits: Tensor,
        rate_dots: Tensor | None,
        workspace: Tensor,
        workspace_bytes: int,
        place: Place,
        scalars: Tensor | None,
    ) -> str: ...
    def profile(
        self,
        tasks: int,
        threads: int,
        lanes: int,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        rates: list[float],
        tensors: Tensors | list[Tensor],
        outputs: list[Tensor],
        task_losses: Tensor,
        logits: Tensor,
        rate_dots: Tensor | None,
        workspace: Tensor,
        workspace_bytes: int,
        place: Place,
        scalars: Tensor | None,
    ) -> list[InstructionTime]: ...

def device_absence() -> str: ...
def device_shared_limit(device: int) -> int: ...
def usable_processors() -> int: ...
def op_names() -> list[str]: ...
def loss_names() -> list[str]: ...
def instruction_set() -> str: ...
def available_instruction_sets() -> list[str]: ...
def force_instruction_set(name: str) -> None: ...
def passing(
    support: object,
    query: object,
    dtype: torch.dtype,
    device: torch.device,
    indices: bool,
    any_y: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int, tuple[int, ...]] | None: ...
def targets_fit(
    output: tuple[int, ...], support_y: Tensor, query_y: Tensor, indices: bool
) -> bool: ...
def readable(*tensors: Tensor) -> bool: ...
def fitting(tensors: list[Tensor], shapes: list[torch.Size], like: Tensor) -> Tensors | None: ...
def give_grads(parameters: list[Tensor], grads: list[Tensor]) -> bool: ...
def peak_flops(float64: bool, threads: int) -> float: ...
