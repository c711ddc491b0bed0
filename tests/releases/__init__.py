"""Two releases at once."""
