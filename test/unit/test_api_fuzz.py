"""Requests that a machine makes up from the OpenAPI document, valid and not: every answer is one that it documents.

Deterministic: the same document gives the same requests.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from structlog.testing import capture_logs

from cdmtaskservice.api.models import ErrorReply
from test.unit.api_fakes import FakeServices

_APP = FakeServices().app()
_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

schema = schemathesis.openapi.from_dict(_APP.openapi())
schema.app = _APP
schema.config.generation.update(modes=list(GenerationMode))


def _token(path: str) -> str:
    if path.startswith("/admin"):
        return "admin"
    if path.startswith("/external_exec/refdata"):
        return "refserv"
    return "executor" if path.startswith("/external_exec") else "ann"


@schema.parametrize()
@settings(
    max_examples=25,
    phases=[Phase.generate],  # not the examples of boundaries: a list of ten thousand takes minutes to check
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_documented(case: Any) -> None:
    token = _token(case.path)
    with capture_logs():
        response = case.call(headers={"Authorization": f"Bearer {token}"})
    case.validate_response(response, checks=_CHECKS)
    if response.status_code >= 400:
        error = ErrorReply.model_validate_json(response.content).error
        assert error.httpcode == response.status_code
        assert [error.request_id] == response.headers["x-request-id"]
