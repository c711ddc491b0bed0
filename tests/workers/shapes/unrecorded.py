"""Calls that leave no row."""

from __future__ import annotations

import pytest
from kombu.exceptions import EncodeError

from tests.waiting import wait_for
from tests.workers.expect import fresh_id
from tests.workers.harness import World
from tests.workers.shapes.registry import shape
from tests.workers.shapes.single import success


@shape
def publish_fails(world: World) -> None:
    """Nothing was sent, so there is no execution, and no step of the workflow that it would have begun."""
    task_id, later = fresh_id(), fresh_id()
    step = world.tasks.add.s(1)
    step.set(task_id=later)
    with pytest.raises(EncodeError):
        world.tasks.add.apply_async((object(),), task_id=task_id, chain=[step])
    success(world)  # events recorded after it are stored
    assert (world.row(task_id), world.row(later)) == (None, None)


@shape
def not_recorded(world: World) -> None:
    """A task that opts out, and Celery's own chord_unlock and backend_cleanup."""
    sent = [world.tasks.unrecorded.delay(), world.app.send_task("celery.backend_cleanup")]
    wait_for(sent[0].ready, 30, "an unrecorded task to run")
    success(world)
    assert [world.row(one.id) for one in sent] == [None, None]
