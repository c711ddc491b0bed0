"""The embedded broker: kombu's filesystem transport, made safe for several processes that publish."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """Messages appear whole.

    kombu 5.7 creates a message's file under its final name and writes it afterwards; a consumer that looks in
    between takes an empty file for the message, and the message is lost.
    """

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override] # named as in its base
        name = f"{time.time_ns():020}_{uuid.uuid4()}"
        unfinished = Path(self.data_folder_out, f"{name}.unfinished")
        unfinished.write_text(dumps(payload), encoding="utf-8")
        unfinished.rename(unfinished.with_name(f"{name}.{queue}.msg"))


class Transport(filesystem.Transport):
    """The transport to give as ``broker_transport``, beside ``broker_url = "filesystem://"``."""

    Channel = Channel
