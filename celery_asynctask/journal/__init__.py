"""The node's durable queue of events: a directory with one file, a segment, per process that writes.

The format, version 1
=====================
The directory belongs to one user (mode 0700) and one store. In it:

``store``
    First line: the store, a URL without credentials; second: the directory's own id, 32 hex digits.
``<source>.<number>.segment``
    What one process wrote. The source names the process: its start in UTC, pid, 8 random hex digits,
    ``20260102T030405-4711-a1b2c3d4``. Its segments are numbered from 1, six digits. A process that lives holds an
    exclusive ``flock`` on its newest one, from before the file has this name (until then it ends in ``.new``); one that
    nobody locks is complete, and is removed when it is stored. Who looks takes a shared lock for an instant.
``<source>.quarantine``
    What could not be stored: one event or damaged line a line, kept until a person removes it.
``recorder.lock``, ``dedicated.lock``
    Locked by the elected recorder, and by a dedicated one. The kernel releases both when their holder dies.

A segment is a sequence of lines, each a frame::

    <CRC-32 of what follows the space, 8 hex digits> <number> <JSON, ASCII, no line breaks>

Frame 0 comes first and describes the segment: ``format`` (1), ``source``, ``segment``, ``host``, ``pid``, ``role``
(producer, worker, child), ``at`` (microseconds since the epoch) and ``dropped`` (events that the process could not
write so far, by reason). The others are events (`celery_asynctask.core.event.Event`), numbered from 1 through all
segments of the source; dropped ones have no number, so a gap is a loss. A frame is appended with one ``write`` and
never changed. A damaged one ends at the next line break; a last line without one is being written, or, when nobody
locks the segment, was cut.

How far a source is stored is in the database, `AsyncTaskSource`: the segment and the position behind the last frame,
moved in the transaction that stores the events. So what is read twice is stored once.
"""

from __future__ import annotations

from celery_asynctask.journal.directory import Directory, Segment
from celery_asynctask.journal.writer import Journal

__all__ = ["Directory", "Journal", "Segment"]
