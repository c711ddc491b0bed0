"""What runs in the user's processes: it watches tasks by signals and hooks, and writes events to the journal."""
