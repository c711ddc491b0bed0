"""Configuration of the app, which Celery reads on first use.

Without environment variables, everything is in one directory and no server is needed. These variables change that:

* ``EXAMPLE_BROKER_URL``, such as ``redis://localhost:6379/0`` or ``amqp://guest:guest@localhost//``
* ``EXAMPLE_RESULT_BACKEND``, such as ``redis://localhost:6379/1``
* ``EXAMPLE_DATABASE_URL``, the database of the records, such as ``postgresql+psycopg://user@localhost/name``
* ``EXAMPLE_TRACE_URL``, the address of a trace, such as ``http://localhost:16686/trace/{trace_id}``
* ``EXAMPLE_DATA_DIR``, the directory; the default is ``example_worker_data``
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

data_dir = Path(os.environ.get("EXAMPLE_DATA_DIR") or "example_worker_data").absolute()
data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # messages, results and records are nobody else's

broker_url = os.environ.get("EXAMPLE_BROKER_URL") or "filesystem://localhost/"
broker_connection_retry_on_startup = True
broker_transport_options: dict[str, Any] = {}
if broker_url.startswith("filesystem:"):
    broker_transport = "example_worker.broker:Transport"
    messages = data_dir / "broker"
    messages.mkdir(exist_ok=True)
    broker_transport_options = {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(data_dir / "exchanges"),
        "polling_interval": 0.02,
    }

result_backend = os.environ.get("EXAMPLE_RESULT_BACKEND") or f"db+sqlite:///{data_dir / 'results.db'}"
if result_backend.startswith("db+sqlite"):
    database_engine_options = {"connect_args": {"timeout": 30}}
    result_chord_retry_interval = 0.5

task_default_queue = "example_worker"  # the broker may be shared, and a worker discards tasks that it does not know

worker_prefetch_multiplier = 1  # tasks take long, and the worker must stop quickly

asynctask_url = os.environ.get("EXAMPLE_DATABASE_URL") or f"sqlite:///{data_dir / 'records.db'}"
asynctask_journal_dir = data_dir / "journal"
asynctask_trace_url = os.environ.get("EXAMPLE_TRACE_URL")
