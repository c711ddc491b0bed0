"""Numbers of many tasks: by name, by status, over time, and what happens now."""
