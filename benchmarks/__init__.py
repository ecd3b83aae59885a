"""Benchmarks of the meta-step: workloads as data, rivals checked before they are timed.

Run `python -m benchmarks` from the repository root; `python -m benchmarks --help` lists the
commands.
"""
