"""The search: its grammar, its conditions in SQL, and the pages of its results."""
