"""The node's durable queue of events: a directory in which each process appends to a file of its own, a segment.

The format, version 1
=====================
The directory belongs to one user (mode 0700) and one store. In it:

``store``
    First line: the store, a URL without credentials. Second line: the directory's own id, 32 hex digits.
``<source>.<number>.segment``
    Events of one process. The source names the process by its start in UTC, its pid and 8 random hex digits:
    ``20260102T030405-4711-a1b2c3d4``. Its segments are numbered from 1, in six digits. A process that lives holds an
    exclusive ``flock`` on its newest segment, from before the file has this name (until then it ends in ``.new``). A
    segment without a lock is complete, and is removed when it is stored. A reader tests this with a shared lock, which
    it holds for an instant.
``<source>.quarantine``
    Events and damaged lines that could not be stored, one a line, kept until a person removes the file.
``recorder.lock``, ``dedicated.lock``
    Locked by the elected recorder, and by a dedicated one. The kernel releases a lock when its holder dies.

A segment is a sequence of lines, each of them a frame::

    <CRC-32 of what follows the space, 8 hex digits> <number> <JSON, ASCII, no line breaks>

Frame 0 comes first and describes the segment: ``format`` (1), ``source``, ``segment``, ``host``, ``pid``, ``role``
(producer, worker, child), ``at`` (microseconds since the epoch) and ``dropped`` (how many events the process could not
write so far, by reason). The other frames are events (`celery_asynctask.core.event.Event`), numbered from 1
through all segments of the source. Dropped events have no number, so a gap in the numbers is a loss. A frame is
appended with one ``write`` and never changed. A damaged frame ends at the next line break. A last line without a line
break is being written or, when the segment has no lock, was cut.

The database says how far a source is stored (`AsyncTaskSource`): the segment, and the position behind the last stored
frame. Both move in the transaction that stores the events, so what is read twice is stored once.
"""

from __future__ import annotations

from celery_asynctask.journal.directory import Directory
from celery_asynctask.journal.names import Segment
from celery_asynctask.journal.writer import Journal

__all__ = ["Directory", "Journal", "Segment"]
