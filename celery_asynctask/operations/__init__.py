"""What changes something, for the command line, the API and the console alike; and `doctor`, which checks all."""
