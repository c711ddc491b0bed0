"""Bounds that more than one part of the package keeps."""

from __future__ import annotations

from typing import Final

MAX_NAME: Final = 255
"""Characters of a name (of a task, a queue, a person) that are kept: as many as the columns take."""
MAX_INTEGER: Final = 2**63 - 1
"""Of a whole number, as its negative is the least: 64 bits."""
MAX_VALUE: Final = 65_536
"""Bytes of JSON that are kept of one value, unless ``asynctask_max_value_bytes`` says otherwise."""
MAX_JOURNAL: Final = 1_073_741_824
"""Bytes that a journal directory may take, unless ``asynctask_journal_max_bytes`` says otherwise."""
MAX_MESSAGE: Final = 4_000
"""Characters of an error message that are kept."""
MAX_TRACEBACK: Final = 20_000
"""Characters of a traceback that are kept: its end, where the error is."""
