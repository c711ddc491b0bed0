"""A recorder alone, without Celery, which stores what there is and prints the most memory that its process has had."""

from __future__ import annotations

import sys
from pathlib import Path

from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings

if __name__ == "__main__":
    recorder = Recorder(Settings(url=sys.argv[1], journal_dir=Path(sys.argv[2])), dedicated=True)
    recorder.start(once=True)
    while recorder.is_running:
        recorder.flush()(1)
    print(Path("/proc/self/status").read_text(encoding="utf-8"))
    sys.exit(recorder.in_trouble)
