"""The cost of other packages that keep task results in PostgreSQL, measured as in `worker`: Celery's database result
backend, and django-celery-results.

Both have the extended result and the started state, the least that they need to record as much as one of our rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from tests import services
from tests.benchmarks.figure import Figure, Options, skipping
from tests.benchmarks.live import DJANGO
from tests.benchmarks.worker import REDIS_DATABASE, Plan, compare, figures

FULL = Plan(restarts=2, observations=4, bursts=2, burst=200, pairs=5)
QUICK = Plan(restarts=1, observations=3, bursts=2, burst=50, pairs=2)


def measure(options: Options) -> Iterator[Figure]:
    plan = QUICK if options.quick else FULL
    yield from skipping(_peer("database backend", plan), "worker: database backend")
    if find_spec("django_celery_results") is None:
        yield Figure(f"worker: {DJANGO}", "", note=f"not measured: {DJANGO} is not installed")
        return
    yield from skipping(_peer(DJANGO, plan), f"worker: {DJANGO}")


def _peer(variant: str, plan: Plan) -> Iterator[Figure]:
    broker = services.redis_url(REDIS_DATABASE)
    for concurrency in (1, 2):
        yield from figures(f"{variant}, Redis, -c{concurrency}", compare(variant, broker, concurrency, plan))
