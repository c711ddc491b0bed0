"""Routes that read: what is asked is taken from the request here, and FastAPI documents it.

FastAPI itself looks for each parameter of a search, and asks each dependency, for a quarter of the time of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Final, get_type_hints

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from celery_asynctask.core.rights import Right
from celery_asynctask.web.service import Caller, needing

_caller: Final = needing(Right.READ)


class ReadingRoute(APIRoute):
    """Its function takes the request, the caller, who may read, and one thing more: ``asked``, a model of the query, or
    ``task_id``, the ``id`` in the path."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        """What answers; of dependencies, it knows the caller alone."""
        function = self.endpoint
        hints = get_type_hints(function, include_extras=True)
        is_search = "asked" in hints
        wanted: TypeAdapter[object] = TypeAdapter(hints["asked" if is_search else "task_id"])
        place = ("query",) if is_search else ("path", "id")

        async def answer(request: Request) -> Response:
            caller = await _caller(request)
            given = _query(request, caller) if is_search else request.path_params["id"]
            try:
                asked = wanted.validate_python(given)
            except ValidationError as exc:
                raise RequestValidationError([{**one, "loc": (*place, *one["loc"])} for one in exc.errors()]) from None
            response: Response = await function(request, caller, asked)
            return response

        return answer


def _query(request: Request, caller: Caller) -> dict[str, str | list[str]]:
    """The parameters of the query, which are known and stand there once, but for those that are lists."""
    parameters = request.query_params
    may_repeat = caller.service.parameters(request.method, request.scope["route"].path)
    return {name: parameters.getlist(name) if may_repeat[name] else parameters[name] for name in parameters}
