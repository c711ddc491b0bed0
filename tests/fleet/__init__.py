"""Proofs with many nodes, or with servers that fail over: `python -m tests.fleet NAME`. The fault tier has small ones.

A node is a process with a journal and a recorder of its own, whose tasks pass through the real hooks.
"""
