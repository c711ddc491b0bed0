"""The embedded broker: kombu's filesystem transport, made safe for several publishing processes."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """Writes a message under a temporary name and renames it, so that consumers see only complete messages.

    kombu 5.7 creates the file under its final name and then writes it; a consumer that looks in between takes the empty
    file for the message, and the message is lost.
    """

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override] # named as in its base
        name = f"{time.time_ns():020}_{uuid.uuid4()}"
        unfinished = Path(self.data_folder_out, f"{name}.unfinished")
        unfinished.write_text(dumps(payload), encoding="utf-8")
        unfinished.rename(unfinished.with_name(f"{name}.{queue}.msg"))


class Transport(filesystem.Transport):
    """The value of ``broker_transport`` for ``broker_url = "filesystem://"``."""

    Channel = Channel
