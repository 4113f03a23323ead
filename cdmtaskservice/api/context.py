"""What is known of a request before it reaches a route: its ID, and who sent it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Scope

from cdmtaskservice.auth.container_token import ContainerClaim
from cdmtaskservice.auth.principal import Principal

_KEY = "cts.request"


@dataclass(slots=True)
class RequestContext:
    """request_id: made here, never taken from outside. caller: None where there was no token."""

    request_id: str
    token: str | None = None
    caller: Principal | ContainerClaim | None = None

    @property
    def words(self) -> Mapping[str, str | int]:
        """Who is asking, for logs: a user, or an executor by what it works on."""
        match self.caller:
            case Principal(user=user):
                return {"user": user}
            case ContainerClaim(job_id=job, container_number=number, attempt=attempt):
                return {"job": job, "container": number, "attempt": attempt}
        return {}


def put_context(scope: Scope, context: RequestContext) -> None:
    """Attach the context to a request."""
    scope[_KEY] = context


def context_of(scope: Scope) -> RequestContext:
    """The context of a request."""
    context: RequestContext = scope[_KEY]
    return context
