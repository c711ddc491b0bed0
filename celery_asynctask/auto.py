"""Switches recording on by configuration alone: name this module in Celery's ``imports`` or ``include``.

Workers and beat import it together with the tasks, and it installs itself on the app that loads it. A process that only
publishes does not load ``imports``; use the task class or `celery_asynctask.install` there.
"""

from __future__ import annotations

from celery.app import app_or_default

from celery_asynctask.capture.install import install

install(app_or_default())
