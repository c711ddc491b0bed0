"""Mutation testing of the code that decides on rows: ``python -m tests.mutation``. `run` lists its targets."""
