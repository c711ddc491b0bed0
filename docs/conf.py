"""Builds the site: ``sphinx-build -W --keep-going -n -b html docs docs/_build``. Needs no network."""

from __future__ import annotations

import celery_asynctask

project = "celery-asynctask"
author = "The celery-asynctask authors"
version = release = celery_asynctask.__version__
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # a link to a heading that is not there is a warning, and a warning fails the build
