"""The tasks of a census.

``take_census`` sends a chord: a chain ``measure | summarize`` for each portion of a package, then ``add_up``. A file
that does not parse must not stop the census, and must not vanish either: ``measure`` gives it a ``parse`` task of its
own, outside the chord, which fails with the real error.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, TypedDict

from celery import chain, chord

from example_worker import census
from example_worker.celery import app


class File(TypedDict):
    """A file, with its encoding if that is not UTF-8."""

    directory: str
    path: str
    encoding: str | None


class Summary(TypedDict):
    """The tally of one portion, or of a package."""

    package: str
    tally: census.Tally


class Census(TypedDict):
    """The result of ``add_up``."""

    total: census.Tally
    packages: int
    largest: list[Summary]


@app.task
def take_census(directory: str) -> dict[str, int]:
    """Find the files and send the tasks that count them."""
    portions = census.scan(Path(directory))
    chord(
        chain(
            measure.s(directory=directory, package=portion.package, paths=portion.paths),
            summarize.s(package=portion.package),
        )
        for portion in portions
    )(add_up.s())
    return {"portions": len(portions), "files": sum(len(portion.paths) for portion in portions)}


@app.task(bind=True, max_retries=1)
def measure(
    self: Any, directory: str, package: str, paths: list[str], encodings: dict[str, str] | None = None
) -> list[census.Tally]:
    """Count each file as UTF-8. If some are not UTF-8, retry with the ``encodings`` found for them."""
    root, known = Path(directory), encodings or {}
    sources: dict[str, str | bytes] = {}
    new: dict[str, str] = {}
    broken: list[str] = []
    reason = ""
    for path in paths:
        try:
            sources[path] = census.source(root / path, known.get(path))
        except UnicodeDecodeError as exc:
            if path in known:
                broken.append(path)
                continue
            new[path] = census.encoding_of(root / path)
            reason = f"{path}: {exc}"
        except OSError:
            broken.append(path)
    if new:
        kwargs = {"directory": directory, "package": package, "paths": paths, "encodings": {**known, **new}}
        raise self.retry(kwargs=kwargs, exc=UnicodeError(reason), countdown=0)
    tallies = []
    for path, code in sources.items():
        try:
            tallies.append(census.measure(code, path))
        except census.UNPARSABLE:
            broken.append(path)
    for path in broken:
        file: File = {"directory": directory, "path": path, "encoding": known.get(path)}
        parse.apply_async(kwargs={"file": file}, link_error=quote.si(file))
    return tallies


# Its argument is the result of the task before, which is recorded already.
@app.task(asynctask_record_args=False)
def summarize(tallies: list[census.Tally], package: str) -> Summary:
    """Add up the files of one portion."""
    return {"package": package, "tally": census.add(tallies)}


@app.task(asynctask_record_args=False)
def add_up(summaries: list[Summary]) -> Census:
    """Add up all portions."""
    packages: dict[str, list[census.Tally]] = defaultdict(list)
    for summary in summaries:
        packages[summary["package"]].append(summary["tally"])
    added: list[Summary] = [{"package": name, "tally": census.add(tallies)} for name, tallies in packages.items()]
    added.sort(key=lambda summary: summary["tally"]["lines"], reverse=True)
    return {
        "total": census.add(summary["tally"] for summary in added),
        "packages": len(added),
        "largest": added[:5],
    }


@app.task
def parse(file: File) -> census.Tally:
    """Parse a file that ``measure`` could not parse, and fail with the reason."""
    return census.measure(_source(file), file["path"])


# It takes one argument: Celery calls an error callback with more inside the failed task, not as a task of its own.
@app.task
def quote(file: File) -> str:
    """The line at which ``parse`` failed."""
    return census.broken_line(_source(file), file["path"])


def _source(file: File) -> str | bytes:
    return census.source(Path(file["directory"], file["path"]), file["encoding"])
