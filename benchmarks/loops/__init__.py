"""Benchmarks of the whole training loop: draw tasks, meta-gradient, Adam, as users write it.

`python -m benchmarks loops` checks every contestant's loop, times all of them in turns, each in a
process of its own, idle and beside a busy process, and writes JSON lines.
"""
