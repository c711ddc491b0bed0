"""Limits that more than one part of the package keeps."""

from __future__ import annotations

from typing import Final

MAX_NAME: Final = 255
"""Characters kept of a name (of a task, a queue, a person): the width of the columns."""
MAX_INTEGER: Final = 2**63 - 1
"""Largest number in a 64-bit column, such as the id of a customer; the smallest allowed is its negative."""
MAX_COUNT: Final = 2**31 - 1
"""Largest number in a 32-bit column, such as a count of retries."""
MAX_TASK_ID: Final = 255
"""Characters kept of a task id: the width of the columns."""
MAX_ID_TEXT: Final = 64
"""Most characters of the id of a customer or creator: the width of the columns."""
MAX_VALUE: Final = 65_536
"""Bytes of JSON kept of one value: the default of ``asynctask_max_value_bytes``."""
MAX_JOURNAL: Final = 1_073_741_824
"""Bytes that a journal directory may take: the default of ``asynctask_journal_max_bytes``."""
MAX_MESSAGE: Final = 4_000
"""Characters kept of an error message: its beginning."""
MAX_TRACEBACK: Final = 20_000
"""Characters kept of a traceback: its frames, and as much of the messages as there is room for."""
