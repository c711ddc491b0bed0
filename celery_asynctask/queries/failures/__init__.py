"""Failures, grouped by what makes them the same."""
