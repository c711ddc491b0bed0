"""Switches recording on by configuration alone: name this module in Celery's ``imports`` or ``include``.

Workers and beat import it together with the tasks, and it installs itself on the app that loads it. A process that only
publishes does not load ``imports``; use the task class or `celery_asynctask.install` there.
"""

from __future__ import annotations

from celery.app import app_or_default

from celery_asynctask.capture.install import install
from celery_asynctask.errors import logger

_app = app_or_default()
if _app.main == "default" and not _app.loader.configured:  # the one that Celery makes where there is none
    logger.warning(
        "celery-asynctask: celery_asynctask.auto was imported before an app was made, and records nothing of it. Name "
        "it in the app's imports instead, or call celery_asynctask.install(app)."
    )
install(_app)
