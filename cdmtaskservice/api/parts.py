"""How routes get at the services that the application was made with."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from cdmtaskservice.services.use_cases import Services


def services_of(request: Request) -> Services:
    """The services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return services_of(request)


Parts = Annotated[Services, Depends(_services)]
