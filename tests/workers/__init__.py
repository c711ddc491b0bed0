"""Whole-process tests: real workers on real brokers, each row checked field by field."""
