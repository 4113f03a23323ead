"""What the tests of the store put into it, and when."""

import datetime
import uuid

from cdmtaskservice.domain.records import ImageRecord, JobRecord, Transition
from cdmtaskservice.domain.states import JobState

NOW = datetime.datetime(2030, 1, 1, 12, 0, 0, 123000, tzinfo=datetime.UTC)
IMAGE = ImageRecord("docker.io/a/b", "sha256:" + "0" * 64, ("/run",), "admin", NOW, tag="1.0")


def after(seconds: float) -> datetime.datetime:
    """So many seconds after `NOW`."""
    return NOW + datetime.timedelta(seconds=seconds)


def a_job(job_id: str, *, user: str = "ann", at: datetime.datetime = NOW, site: str = "here", **kwargs) -> JobRecord:
    """A new job; `kwargs` are its tags and other fields."""
    return JobRecord(
        id=job_id,
        user=user,
        site=site,
        input={"cpus": 1, "memory": 10, "params": {"args": ["it's", 'a "q"', "ü"]}, "tags": kwargs.pop("tags", [])},
        image=IMAGE,
        input_file_count=3,
        containers=2,
        runtime=60.0,
        state=JobState.CREATED,
        transitions=(Transition(JobState.CREATED, at, f"t-{job_id}"),),
        **kwargs,
    )


def to(state: JobState, at: datetime.datetime = NOW) -> Transition:
    """A transition like no other."""
    return Transition(state, at, f"t-{uuid.uuid4()}")
