"""What the log says while a process cannot write to its journal: once when it begins, once when it is over."""

from __future__ import annotations

import os

from celery_asynctask.core.logs import logger_of

logger = logger_of("celery_asynctask.journal")


class Trouble:
    """The log of one process's trouble with its journal."""

    def __init__(self) -> None:
        self.is_logged = False

    def begins(self, role: str, reason: str, consequence: str) -> None:
        """Log a failure, unless one is logged already."""
        if not self.is_logged:
            self.is_logged = True
            logger.error(
                "celery-asynctask cannot write to its journal in this process (%s, pid %d): %s. Tasks are not "
                "affected. %s, and recording resumes by itself when the cause is gone.",
                role,
                os.getpid(),
                reason.rstrip("."),
                consequence,
            )

    def ends(self, dropped: int) -> None:
        """Log that all is well again, if something was not."""
        if self.is_logged:
            self.is_logged = False
            logger.warning(
                "celery-asynctask writes to its journal again in this process (pid %d). Since its start it has dropped "
                "%d events.",
                os.getpid(),
                dropped,
            )
