"""The two corners of what pyproject.toml promises: ``nox`` runs both, ``nox -s oldest`` one, ``nox -l`` lists them.

Each runs, on an installation of its own, the tests of single parts and, on SQLite, those that choose their database.
``nox -s matrix`` runs whole workers on Pythons and releases between them, and needs the servers. ``nox --install-only``
makes the installations, ``nox -R`` runs on those that are made.
"""

from __future__ import annotations

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True
nox.options.stop_on_first_error = False

PROMISED = ("postgresql", "mysql", "migrations", "cli", "http", "parquet")
"""The extras of which every release is promised that pyproject.toml allows."""
ELSEWHERE = {
    "a2wsgi",
    "axe-playwright-python",
    "celery-asynctask",
    "django",
    "flask",
    "gevent",
    "openapi-generator-cli",
    "playwright",
    "pyuwsgi",
    "schemathesis",  # it wants a newer rich than is promised
}
"""Requirements of tests that need a server, a browser or Java: no corner installs them."""
LEFT_OUT = ("tests/browser", "tests/integration/http/test_fuzz.py", "tests/integration/test_recipes.py")
"""Tests that import one of those."""
RUN = ("unit", "sqlite", "test_list")
"""What the names of the tests have in them that are run; the list, for its tables are drawn by another library."""
SHORT = {"ASYNCTASK_EXAMPLES": "25", "ASYNCTASK_GENERATED": "50", "ASYNCTASK_VARIANTS": "3"}
"""Fewer examples, and variants, of what is tried with many elsewhere."""
ANY_RELEASE = ("opentelemetry-instrumentation-celery", "opentelemetry-sdk", "redis")
"""What tests share with the example, whose tracing needs a newer OpenTelemetry than the package does."""


def tools() -> list[str]:
    """What the tests import beside the package."""
    extras = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
    return [*ANY_RELEASE, *(one for one in extras["test"] if Requirement(one).name not in ELSEWHERE)]


def corner(session: nox.Session, *constraints: str) -> None:
    session.install(*constraints, "-e", f".[{','.join(PROMISED)}]", *tools())
    ignored = (f"--ignore={one}" for one in LEFT_OUT)
    session.run("python", "-m", "pytest", *ignored, "-k", " or ".join(RUN), *session.posargs, env=SHORT)


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The oldest Python with the oldest releases (tests/oldest.txt)."""
    corner(session, "-c", "tests/oldest.txt")


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """The newest Python with the newest releases of everything."""
    corner(session, "--upgrade")


PYTHONS = ("3.10", "3.11", "3.12", "3.13")
CELERIES = ("5.5.0", "5.6.*", "5.7.*")
SQLALCHEMIES = ("2.0.31", "2.0.*", "2.1.*")
"""The oldest that is promised, and the newest of each series."""
PLACES = [f"{broker}/{database}" for broker in ("redis", "rabbitmq") for database in ("sqlite", "postgresql", "mysql")]
OTHERS = [f"{place}/{pool}" for place in PLACES for pool in ("threads", "gevent", "eventlet", "solo")]
# Every two of Python, Celery and SQLAlchemy meet in a row, but for Python 3.10, which SQLAlchemy 2.1 does not support.
# And every place and pool is in some row: one worker with prefork each, and two with other pools.
ROWS = [
    (python, celery, SQLALCHEMIES[(i + j) % (2 if python == "3.10" else 3)], 3 * i + j)
    for i, python in enumerate(PYTHONS)
    for j, celery in enumerate(CELERIES)
]


@nox.session(default=False)
@nox.parametrize(
    ("python", "celery", "sqlalchemy", "row"),
    ROWS,
    ids=[f"python-{row[0]}-celery-{row[1]}-sqlalchemy-{row[2]}".replace(".*", "") for row in ROWS],
)
def matrix(session: nox.Session, celery: str, sqlalchemy: str, row: int) -> None:
    """What lies between the corners: real workers on the servers, each row with three (see tests.compatibility)."""
    session.install(
        *(f"celery[redis]=={celery}", f"sqlalchemy=={sqlalchemy}", "-e", ".[postgresql,mysql]"),
        *(*ANY_RELEASE, "gevent", "eventlet", "pytest"),
    )
    runs = (f"{PLACES[(row + row // 6) % 6]}/prefork", *OTHERS[2 * row : 2 * row + 2])
    session.run("python", "-m", "tests.compatibility", *runs)
