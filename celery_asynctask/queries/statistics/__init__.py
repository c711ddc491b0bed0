"""Statistics of many tasks: by name, by status, over time, and at present."""
