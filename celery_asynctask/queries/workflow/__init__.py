"""The workflow around a task: its members, their tree, and their timeline."""
