"""Settings of the Django project in which a worker of the variant ``django-celery-results`` runs."""

from __future__ import annotations

import json
import os

from sqlalchemy import make_url

from tests.benchmarks.app import ENVIRONMENT

_url = make_url(json.loads(os.environ[ENVIRONMENT])["url"])

SECRET_KEY = "none"
USE_TZ = True
INSTALLED_APPS = ["django_celery_results"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.database,
        "USER": _url.username,
        "PASSWORD": _url.password or "",
        "HOST": _url.host,
        "PORT": _url.port or "",
    }
}
