"""What recording costs, measured: ``python -m tests.benchmarks --help``.

One module a benchmark (`hooks`, `publish`, `worker`, `peers`, `drain`, `memory`, `payload`, `queries`, `purge`), each
with a ``measure`` that yields `figure.Figure`. Comparisons are made in short turns (A B B A ...), because the speed of
a machine wanders by far more than what there is to see.
"""
