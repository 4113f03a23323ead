"""What approves images and takes jobs, in a house of reference data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdmtaskservice.auth.container_token import ContainerTokens
from cdmtaskservice.auth.local import LocalAuthenticator
from cdmtaskservice.auth.principal import Permissions, Principal
from cdmtaskservice.domain.images import ImageApproval
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.domain.records import ImageRecord
from cdmtaskservice.registry.crane import ImageFacts
from cdmtaskservice.registry.names import ImageName
from cdmtaskservice.services.authentication import Authentication
from cdmtaskservice.services.images import Images
from cdmtaskservice.services.submission import Submission, SubmissionConfig
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from test.stand_ins.refdata_house import ADMIN, CRC, RefdataHouse

ANN = Principal("ann", frozenset({"KBASE_STAFF"}))
TOOL = "localhost/tools/x"
INPUT = "cts-data/ann/in.fa"


class FakeCrane:
    """A registry that has every image, each with its tag in its digest."""

    async def resolve(self, name: ImageName) -> ImageFacts:
        return ImageFacts(name.name, "sha256:" + f"{name.tag or 'latest':0>64}", name.tag or "latest", ("/run",))


class RefdataRoom:
    """Images and jobs of a house."""

    def __init__(self, house: RefdataHouse) -> None:
        self.house = house
        house.s3.objects[INPUT] = CRC
        self.images = Images(house.images, FakeCrane(), house.refdata, house.clock)  # type: ignore[arg-type]
        self.containers = ContainerStore(house.database)
        self.files = FileStore(house.database)
        permissions = Permissions()
        authentication = Authentication(
            LocalAuthenticator.__new__(LocalAuthenticator),  # never asked: users come with their roles
            ContainerTokens(b"k" * 32),
            permissions,
            ["cts-data/{user}/"],
            house.clock,
        )
        self.submission = Submission(
            house.jobs,
            self.containers,
            self.files,
            self.images,
            house.refdata,
            house.sites,
            house.s3,  # type: ignore[arg-type]
            authentication,
            permissions,
            house.clock,
            house.ids,
            lambda job_id: None,
            SubmissionConfig(max_cpu_hours=10.0, log_path="logs/"),
        )

    async def approve(
        self, tag: str, refdata_id: str | None = None, mount: str | None = "/ref", **body: Any
    ) -> ImageRecord:
        approval = ImageApproval.model_validate(body)
        return await self.images.approve(
            ADMIN, f"{TOOL}:{tag}", approval, refdata_id, mount if refdata_id is not None else None
        )

    async def submit(self, tag: str = "1", site: str = "here", params: Mapping[str, Any] | None = None) -> str:
        values = {
            "cluster": site,
            "image": f"{TOOL}:{tag}",
            "params": params or {},
            "output_dir": "cts-data/ann/out",
            "input_files": [INPUT],
        }
        return await self.submission.submit(ANN, JobInput.model_validate(values))

    async def stored(self) -> dict[str, int]:
        """How many documents there are of jobs."""
        database = self.house.database.db
        names = ("jobs", "containers", "files", "pending")
        return {name: n for name in names if (n := await database[name].count_documents({}))}
