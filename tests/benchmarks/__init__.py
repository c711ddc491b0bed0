"""Measures what recording costs: ``python -m tests.benchmarks --help``.

Each benchmark is a module (`hooks`, `publish`, `worker`, `peers`, `drain`, `memory`, `payload`, `queries`, `purge`)
with a ``measure`` that yields `figure.Figure`. Comparisons alternate in short turns (A B B A ...), because the speed of
a machine varies by far more than the differences to be seen.
"""
