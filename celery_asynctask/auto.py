"""Switching it on by configuration alone: name this module in Celery's ``imports`` or ``include``.

A worker (and beat) imports it with its tasks, and it installs itself on the app that is loading. A process that only
publishes does not load ``imports``; there, use the task class or `celery_asynctask.install`.
"""

from __future__ import annotations

from celery.app import app_or_default

from celery_asynctask.capture.install import install

install(app_or_default())
