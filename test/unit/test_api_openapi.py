"""The OpenAPI document, against the one that was last agreed on.

After a deliberate change of the interface, write it anew and look at the difference before you commit it:

    python -m test.unit.test_api_openapi --write
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from test.unit.api_fakes import FakeServices

SNAPSHOT = Path(__file__).parent.parent / "openapi.json"


def document() -> dict[str, Any]:
    return FakeServices().app().openapi()


def test_the_document_is_the_agreed_one() -> None:
    agreed = json.loads(SNAPSHOT.read_text())
    assert document() == agreed, (
        "The interface has changed. If that is meant, run `python -m test.unit.test_api_openapi --write`, and look at "
        f"the difference in {SNAPSHOT.name}: existing clients must go on working."
    )


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(m, p, op) for p, methods in document()["paths"].items() for m, op in methods.items()]


def test_every_operation_is_documented() -> None:
    names = [op["operationId"] for _, _, op in _operations()]
    assert len(set(names)) == len(names)
    for method, path, operation in _operations():
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        assert {"401", "500", "503"} <= operation["responses"].keys(), where
        assert "422" not in operation["responses"], where
        if "security" in operation:
            assert "10010" in operation["responses"]["401"]["description"], where
            assert "20000" in operation["responses"]["403"]["description"], where
        if "requestBody" in operation:
            assert "30010" in operation["responses"]["400"]["description"], where
            assert "413" in operation["responses"], where


def test_only_public_routes_have_no_security() -> None:
    public = {p for _, p, op in _operations() if "security" not in op}
    assert public == {
        "/",
        "/sites",
        "/images",
        "/images/{image}",
        "/refdata",
        "/refdata/id/{refdata_id}",
        "/refdata/path/{s3path}",
        "/external_exec/files/condor/executable.sh",
        "/external_exec/files/code_archive.tgz",
        "/callback/download/{job_id}",
        "/callback/job/{job_id}",
        "/callback/upload/{job_id}",
        "/callback/errlogs/{job_id}",
        "/callback/refdata_download/{refdata_id}/{cluster}",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    assert document()["components"]["securitySchemes"]["Token"]["scheme"] == "bearer"


def test_fields_that_may_be_left_out_are_never_null() -> None:
    schemas = document()["components"]["schemas"]
    jobs = ("JobPreview", "Job", "AdminJobDetails", "SubJob")
    refdata = ("ReferenceData", "RefdataStatus", "AdminReferenceData", "AdminRefdataStatus")
    for name in (*jobs, *refdata, "Image", "Site", "ErrorDetail"):
        for field, schema in schemas[name]["properties"].items():
            assert {"type": "null"} not in schema.get("anyOf", []), f"{name}.{field}"
            assert "default" not in schema, f"{name}.{field}"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m test.unit.test_api_openapi --write")
    SNAPSHOT.write_text(json.dumps(document(), indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {SNAPSHOT}")
