"""A private name of Celery or billiard that we rely on, and whether the installed version has it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import billiard
import celery


class Name(NamedTuple):
    """A private name. As text, it says that the name is gone, and what that costs."""

    name: str
    lost: str
    """What is not recorded without it."""
    owner: str | Callable[[Any], object]
    """What has it: ``module:Class`` or a module, or a function that checks it on the app."""
    since: tuple[int, int] = (5, 5)
    """The first version of Celery that has it."""

    @property
    def library(self) -> str:
        """The library with its version: ``Celery 5.8.0``."""
        is_billiard = self.name.startswith("billiard")
        return f"billiard {billiard.__version__}" if is_billiard else f"Celery {celery.__version__}"

    def __str__(self) -> str:
        return f"{self.library} has no {self.name}: {self.lost}"

    def is_there(self, app: Any) -> bool:
        """Whether the installed Celery has it. Beat's names count as there unless ``celery.beat`` is loaded."""
        try:
            if not isinstance(self.owner, str):
                return bool(self.owner(app))
            module, _, kind = self.owner.partition(":")
            if module == "celery.beat" and module not in sys.modules:
                return True
            owner = getattr(import_module(module), kind) if kind else import_module(module)
            inspect.getattr_static(owner, self.name.rpartition(".")[2])
        except Exception:  # noqa: BLE001 - the name, or the module or class that has it, is gone
            return False
        return True
