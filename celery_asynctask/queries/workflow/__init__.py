"""The workflow around a task: its members, their tree, and their course in time."""
