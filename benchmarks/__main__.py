"""Command line: `python -m benchmarks [COMMAND] ...`; `--help` names the commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import device_run, devices, fallback, first_call, gpu_model, records, table
from benchmarks.contestants import CONTESTANTS, select
from benchmarks.loops import runner as loop_runner
from benchmarks.loops import table as loop_table
from benchmarks.loops.workloads import LOOPS
from benchmarks.runner import Options, run, with_common_peak
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmarks.md"


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command line, or None for the process's own; without a command `run` is meant.

    Returns:
        Exit status: 1 when a contestant was refused or `table --check` found a stale table.
    """
    args = parsed(sys.argv[1:] if arguments is None else arguments)
    if args.command == "list":
        return _list()
    if args.command == "table":
        return _table(args)
    if args.command == "loops":
        return _loops(args)
    if args.command == "model":
        print(gpu_model.render(args.workloads, kinds=args.kinds))
        return 0
    if args.command == "first-call":
        torch.set_num_threads(args.threads)
        print(first_call.run(quick=args.quick))
        return 0
    if args.command == "overhead":
        return _overhead(args)
    if args.command == "fallback":
        return _fallback(args)
    return _run(args)


def parsed(given: list[str]) -> argparse.Namespace:
    """The words of a command line; argparse ends the process where they are wrong."""
    if given and given[0] == "--model-gpu":
        given = ["model", *given[1:]]
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given = ["run", *given]
    return _parser().parse_args(given)


def _parser() -> argparse.ArgumentParser:
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Benchmarks of the meta-step."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser(
        "run", help="check, time, measure memory, write JSON lines, print the table"
    )
    runs.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    runs.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, help="default: all but secondary forms"
    )
    runs.add_argument(
        "--all-forms", action="store_true", help="also secondary JAX forms; minutes of compiling"
    )
    runs.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: time there and print a text for an issue; writes no results",
    )
    runs.add_argument("--rounds", type=int, default=defaults.rounds)
    runs.add_argument("--threads", type=int, default=defaults.threads)
    runs.add_argument(
        "--seconds",
        type=float,
        default=defaults.workload_seconds,
        help="rounds of one workload, at most; default: what the workload names",
    )
    runs.add_argument("--no-memory", action="store_true")
    runs.add_argument("--flat-calls", type=int, default=defaults.flat_calls)
    runs.add_argument("--flat-seconds", type=float, default=defaults.flat_seconds)
    runs.add_argument("--output", type=Path, default=records.LATEST)
    _add_loops(commands.add_parser("loops", help="check and time whole training loops"))
    tables = commands.add_parser(
        "table", help="write the tables of the results into the pages that show them"
    )
    tables.add_argument("--results", type=Path, default=records.COMMITTED)
    tables.add_argument("--loops", type=Path, default=records.COMMITTED_LOOPS)
    tables.add_argument("--readme", type=Path, default=README, help="has the short table")
    tables.add_argument("--page", type=Path, default=PAGE, help="has the whole tables")
    tables.add_argument(
        "--check", action="store_true", help="change nothing; status 1 if it would change"
    )
    models = commands.add_parser(
        "model", help="bound the steps on GPUs from their data sheets; needs none (--model-gpu)"
    )
    models.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    models.add_argument("--kinds", action="store_true", help="also by kind of instruction")
    firsts = commands.add_parser(
        "first-call", help="time tracing and planning, and measure what calls leave in memory"
    )
    firsts.add_argument("--threads", type=int, default=1)
    firsts.add_argument("--quick", action="store_true", help="small models, to see that it runs")
    _add_calls(commands)
    commands.add_parser("list", help="workloads and contestants")
    return parser


def _add_calls(commands: Any) -> None:
    calls = commands.add_parser(
        "overhead", help="what a call takes beside the engine, by the number of parameters"
    )
    calls.add_argument("--tensors", nargs="+", type=int, default=[1, 10, 50, 200])
    calls.add_argument("--rounds", type=int, default=50)
    falls = commands.add_parser(
        "fallback", help="time and memory of what runs in PyTorch, beside a plain loop"
    )
    falls.add_argument("--networks", nargs="+", choices=fallback.NETWORKS)
    falls.add_argument("--tasks", nargs="+", type=int, default=[4, 16])
    falls.add_argument("--rounds", type=int, default=5)
    falls.add_argument("--threads", type=int, default=1)


def _add_loops(parser: argparse.ArgumentParser) -> None:
    defaults = loop_runner.Options()
    parser.add_argument("--workloads", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--contestants", nargs="+", help="default: all")
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="of each visit, at least"
    )
    parser.add_argument(
        "--busy",
        action=argparse.BooleanOptionalAction,
        default=defaults.busy,
        help="also beside one busy process",
    )
    parser.add_argument("--output", type=Path, default=records.LATEST_LOOPS)


def _run(args: argparse.Namespace) -> int:
    if args.device == "cuda":
        return _run_on_device(args)
    options = Options(
        rounds=args.rounds,
        threads=args.threads,
        workload_seconds=args.seconds,
        memory=not args.no_memory,
        flat_calls=args.flat_calls,
        flat_seconds=args.flat_seconds,
    )
    contestants = select(args.contestants, all_forms=args.all_forms)
    results: list[records.Record] = []
    for name in args.workloads:
        results = with_common_peak(results + run(WORKLOADS[name], contestants, options))
        records.write(args.output, results)
    print(table.render(results))
    return 1 if any(r.verdict.startswith("refused") for r in results) else 0


def _run_on_device(args: argparse.Namespace, device: devices.Device | None = None) -> int:
    if device is None:
        reason = devices.absence()
        if reason:
            print(
                f"benchmarks: --device cuda must have a CUDA device for torch and fastmaml: "
                f"{reason}; run it where there is one, or see --model-gpu for bounds without.",
                file=sys.stderr,
            )
            return 1
        device = devices.Cuda()
    contestants = select(args.contestants, all_forms=args.all_forms)
    if args.contestants is None:
        contestants = [c for c in contestants if c.family in device_run.FAMILIES]
    rows: list[device_run.Row] = []
    with device.plain_float32():
        for name in args.workloads:
            workload = WORKLOADS[name]
            seconds = workload.seconds if args.seconds is None else args.seconds
            rows += device_run.run(workload, contestants, args.rounds, seconds, device)
        print(device_run.render(rows, device.facts(), device.peak_gflops()))
    return 1 if any(row.verdict.startswith("refused") for row in rows) else 0


def _overhead(args: argparse.Namespace) -> int:
    from benchmarks import overhead  # fastmaml alone is timed, which the others do without

    print(overhead.render(overhead.run(args.tensors, args.rounds)))
    return 0


def _fallback(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    print(fallback.HEAD)
    for case in fallback.cases(args.networks or list(fallback.NETWORKS), args.tasks):
        print(fallback.render(case, fallback.run(case, args.rounds)), flush=True)
    return 0


def _loops(args: argparse.Namespace) -> int:
    names = tuple(args.contestants) if args.contestants else None
    options = loop_runner.Options(args.rounds, args.seconds, args.busy, names)
    results: list[records.LoopRecord] = []
    for name in args.workloads:
        results += loop_runner.run(LOOPS[name], options)
        records.write(args.output, results)
    print(loop_table.render(results))
    return 1 if any(r.verdict.startswith("refused") for r in results) else 0


def _table(args: argparse.Namespace) -> int:
    steps, loops = records.read(args.results), records.read_loops(args.loops)
    pages = {
        args.readme: [(table.summary(steps), table.SUMMARY_BEGIN, table.SUMMARY_END)],
        args.page: [
            (table.render(steps), table.BEGIN, table.END),
            (loop_table.render(loops), loop_table.BEGIN, loop_table.END),
        ],
    }
    stale = False
    for path, parts in pages.items():
        old = new = path.read_text()
        for part in parts:
            new = table.replace_between_markers(new, *part)
        stale = stale or new != old
        if not args.check:
            path.write_text(new)
    return int(args.check and stale)


def _list() -> int:
    for name, workload in WORKLOADS.items():
        print(f"{name:16}{workload.necessary_flops / 1e9:8.3g} GFLOP  {workload.title}")
    print("contestants:", ", ".join(CONTESTANTS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
