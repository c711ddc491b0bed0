"""The search: its grammar, its conditions in SQL, and pages of what it finds."""
