"""What runs in the user's processes: it hears of tasks by signals and hooks, and writes events to the journal."""
