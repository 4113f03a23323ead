"""What the client reads is what the service writes: its models against the service's own, field by field."""

import datetime
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.api import models as service
from cdmtaskservice.client import admin_models, job_input, models
from cdmtaskservice.client.errors import UnexpectedReply
from cdmtaskservice.client.job_input import format_duration
from cdmtaskservice.client.reading import Model, parse_duration, parse_time
from cdmtaskservice.domain import jobs, parameters
from cdmtaskservice.domain.quantities import format_duration as shortest
from cdmtaskservice.domain.states import TERMINAL_STATES
from test.stand_ins.client_desk import TIME

PAIRS: list[tuple[type[Any], type[Any]]] = [
    (models.AllowedPath, service.AllowedPath),
    (models.WhoAmI, service.WhoAmI),
    (models.Site, service.Site),
    (models.JobImage, service.JobImage),
    (models.Image, service.Image),
    (models.Transition, service.TransitionTime),
    (models.JobStatus, service.JobStatus),
    (models.JobPreview, service.JobPreview),
    (models.Job, service.Job),
    (models.OutputFile, service.JobFile),
    (models.Container, service.Container),
    (models.Manifest, service.Manifest),
    (models.Example, service.JobExample),
    (models.DryRun, service.DryRun),
    (models.RefdataStatus, service.RefdataStatus),
    (models.ReferenceData, service.ReferenceData),
    (admin_models.AdminTransition, service.AdminTransitionTime),
    (admin_models.AdminJob, service.AdminJobDetails),
    (admin_models.LostAttempt, service.LostAttempt),
    (admin_models.SubJob, service.SubJob),
    (admin_models.RefdataTransfer, service.RefdataTransfer),
    (admin_models.AdminRefdataStatus, service.AdminRefdataStatus),
    (admin_models.AdminReferenceData, service.AdminReferenceData),
    (admin_models.Unsent, service.Unsent),
    (admin_models.NerscClient, service.NerscClient),
    (job_input.AcceptedInput, jobs.JobInput),
    (job_input.JobInput, jobs.JobInput),
    (job_input.InputFile, jobs.InputFile),
    (job_input.Parameters, parameters.Parameters),
    (job_input.Parameter, parameters.ParameterWithFlag),
]
SERVICE_ONLY = {"DryRun": {"dry_run"}}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda m: m.__name__)
def test_the_fields_are_those_of_the_service(ours: type[Any], theirs: type[Any]):
    names = {f.name for f in fields(ours)} - {"raw"}
    assert names == set(theirs.model_fields) - SERVICE_ONLY.get(ours.__name__, set())


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda m: m.__name__)
def test_what_the_service_may_leave_out_is_not_needed(ours: type[Any], theirs: type[Any]):
    needed = {f.name for f in fields(ours) if f.default is MISSING and f.default_factory is MISSING}
    optional = {name for name, field in theirs.model_fields.items() if not field.is_required()}
    always_shown = {"num_containers", "cpus", "memory", "runtime"}
    assert needed & optional <= (always_shown if ours is job_input.AcceptedInput else set())


def test_every_model_is_compared():
    found = {
        m
        for module in (models, admin_models, job_input)
        for m in vars(module).values()
        if isinstance(m, type) and issubclass(m, Model) and m is not Model
    }
    assert found <= {ours for ours, _ in PAIRS}


def test_the_terminal_states_are_the_services():
    assert {s.value for s in TERMINAL_STATES} == models.TERMINAL_STATES


def test_containers_and_files_without_what_is_not_known():
    container = models.Container.read({"container_number": 3, "state": "created"})
    assert (container.attempt, container.exit_code, container.phase) == (None, None, None)
    assert models.Container.read({"container_number": 3, "state": "error", "exit_code": None}).exit_code is None


def test_nothing_breaks_of_what_is_new():
    sent = {"id": "j", "user": "ann", "state": "dreaming", "transition_times": [], "mood": {"a": [1]}}
    found = models.JobStatus.read(sent)
    assert found.state == "dreaming"
    assert not found.is_over
    assert found.raw == sent
    assert "mood" not in repr(found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": 5},
        {"transition_times": {}},
        {"transition_times": [5]},
        {"transition_times": [{"state": "created"}]},
        {"transition_times": [{"state": "created", "time": 5}]},
        {"id": None},
        {"admin_meta": []},
    ],
)
def test_what_cannot_be_read_says_where(wrong: dict[str, Any]):
    sent = {"id": "j", "user": "ann", "state": "created", "transition_times": [], **wrong}
    with pytest.raises(UnexpectedReply, match=r"JobStatus|Transition"):
        models.JobStatus.read(sent)


def test_models_are_frozen_and_can_be_compared():
    one, two = (models.Transition.read({"state": "created", "time": TIME, "x": x}) for x in (1, 2))
    assert one == two
    assert len({one, two}) == 1
    with pytest.raises(AttributeError):
        one.state = "error"


def test_times_are_aware():
    assert parse_time("2030-01-01T12:00:00Z").tzinfo is not None
    assert parse_time("2030-01-01T12:00:00").tzinfo is datetime.UTC


@given(st.timedeltas(min_value=datetime.timedelta(), max_value=datetime.timedelta(days=10_000)))
def test_durations_are_read_and_written(duration: datetime.timedelta):
    assert parse_duration(shortest(duration)) == duration
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("text", ["", "P", "PT", "5", "PT5", "P1Y", "P1M", "PT1H1D", "pt5m"])
def test_what_is_no_duration(text: str):
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


def test_seconds_are_a_duration():
    assert parse_duration(90) == datetime.timedelta(minutes=1, seconds=30)


def test_args_are_texts_and_parameters():
    sent = {"args": ["-v", {"type": "container_number", "flag": "-n"}], "environment": {"A": "b"}}
    read = job_input.Parameters.read(sent)
    assert read.args == ("-v", job_input.Parameter.container_number(flag="-n"))
    assert read.environment == {"A": "b"}


def test_administrators_are_known():
    assert models.WhoAmI.read({"user": "a", "roles": ["full_admin"], "allowed_paths": []}).is_admin
    assert not models.WhoAmI.read({"user": "a", "allowed_paths": []}).is_admin


def test_the_services_own_json_is_read():
    """As the service's models write it, with every field set."""
    status = SimpleNamespace(state="created", time=datetime.datetime.now(datetime.UTC))
    site = service.Site(
        cluster="c",
        nodes=1,
        cpus_per_node=2,
        memory_per_node_gb=3,
        max_runtime_min=4,
        gpus_per_node=5,
        notes=["n"],
        active=True,
        available=False,
        unavailable_reason="why",
    )
    assert models.Site.read(site.model_dump(mode="json")).unavailable_reason == "why"
    transition = service.TransitionTime(state=status.state, time=status.time)
    assert models.Transition.read(transition.model_dump(mode="json")).time == status.time
