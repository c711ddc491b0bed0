"""The node's durable queue of events: a directory in which each process appends to a file of its own, a segment.

The format, version 2
=====================
The directory belongs to one user (mode 0700) and one store. In it:

``store``
    First line: the store, a URL without credentials. Second line: the directory's own id, 32 hex digits. Third line,
    once something was stored: the identity of the database.
``<source>.<number>.events``
    Events of one process. The source names the process by its start in UTC, its pid and 8 random hex digits:
    ``20260102T030405-4711-a1b2c3d4``. Its segments are numbered from 1, in six digits. A process that lives holds an
    exclusive ``flock`` on its newest segment, from before the file has this name (until then it ends in
    ``.events-new``). A segment without a lock is complete. When it is stored, it is renamed to ``.kept``, and removed
    after `Settings.journal_keep` seconds: a database that fails over may lose what it had stored last. A reader tests
    this with a shared lock, which it holds for an instant.
``<source>.page``
    The control page of the process, whose format is in `page`: how many events it accepted, and its runs in hand.
``<source>.quarantine``
    Events and damaged lines that could not be stored, one a line, kept until a person removes the file.
``drain.lock``, ``dedicated-drain.lock``
    Locked by the elected recorder, and by a dedicated one. The kernel releases a lock when its holder dies.
``<source>.<number>.segment``, ``recorder.lock``, ``dedicated.lock``
    The same of format 1. A recorder that also holds that ``recorder.lock`` drains those segments, too.

While the disk takes nothing, a process goes on in a second directory (`spare`) that has files of the same names; its
segments are numbered on. One that is in both is being moved.

A segment is a sequence of lines, each of them a frame::

    <CRC-32 of what follows the space, 8 hex digits> <number> <JSON, ASCII, no line breaks>

Frame 0 comes first and describes the segment: ``format`` (2), ``source``, ``segment``, ``host``, ``pid``, ``role``
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
