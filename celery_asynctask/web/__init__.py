"""What the API and the console share: callers and their rights, problems, answers with ETags."""
