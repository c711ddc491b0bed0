"""Mutation testing of what decides on rows: ``python -m tests.mutation``. `run` says what it looks at."""
