"""Every shape that an execution can take: each function sends it, does to it what the shape is about, and checks its
rows.

A shape is a function of the `World`; it returns when its rows are right. All of them run at the same time against one
worker, as in real life.
"""

from tests.workers.shapes import endings, messages, revoked, single, unrecorded, workflows
from tests.workers.shapes.registry import ENDS_SOLO, PREFORK_ONLY, SHAPES

__all__ = ["ENDS_SOLO", "PREFORK_ONLY", "SHAPES", "endings", "messages", "revoked", "single", "unrecorded", "workflows"]
