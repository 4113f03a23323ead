"""What a demo that stays up tells its user to try: pages and commands that work as they stand."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.pool import CondorPool
from cdmtaskservice.embedded.service import BUCKET, EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack

_JOB = """\
# A job for the demo. `cts submit --example` explains what else there is.
cluster: {cluster}
image: {image}
name: my first job
num_containers: 2
memory: 500MB
runtime: PT5M
params:
  args:
    - stats
    - type: input_files
      input_files_format: space_separated_list
  declobber: true
input_files:
  - {bucket}/ann/reads/sample1.fasta
  - {bucket}/ann/reads/sample2.fasta
output_dir: {bucket}/ann/results/mine
"""


class Guide:
    """For one running demo. Files for its user lie in `root`."""

    def __init__(
        self,
        console: Console,
        root: Path,
        stack: EmbeddedStack,
        service: EmbeddedService,
        image: Pushed,
        cluster: str,
        *,
        stays: bool,
    ) -> None:
        """stays: whether `root` is left when the demo ends."""
        self._console = console
        self._root = root
        self._stack = stack
        self._service = service
        self._image = image
        self._cluster = cluster
        self._stays = stays

    def tell(self) -> None:
        """Write the files, and print what can be done with them."""
        job = self._write(
            "job.yaml", _JOB.format(cluster=self._cluster, image=self._image.by_tag, bucket=BUCKET), mode=0o644
        )
        ann, admin = self._environment("ann"), self._environment("admin")
        url, tokens = self._service.url, self._service.tokens
        self._print(
            f"\n[bold]Everything stays up until Ctrl-C.[/bold] {_end_of(self._root, stays=self._stays)}\n\n"
            f"[bold]In a browser:[/bold] {url}/ui   and sign in with a token:\n"
        )
        self._console.print(
            f"  {tokens['ann']}   ann, a scientist\n  {tokens['admin']}   admin, an administrator\n", markup=False
        )
        self._print("[bold]In another terminal, in this directory:[/bold]\n")
        self._commands(
            (f". {ann}", "says where the service is, and that you are ann"),
            (f"cts submit {job} --dry-run", "would it be accepted, and what would run?"),
            (f"ID=$(cts submit {job} --wait)", "submits it, and waits until it is over"),
            ("cts job $ID; cts logs $ID", "what became of it, and what its first container wrote"),
            ("cts outputs $ID --download results", "its outputs, verified, below results/"),
            ("cts jobs", "all of your jobs"),
            (f"cts s3 put README.md {BUCKET}/ann/mine/", "a file of your own for S3; name it in the job then"),
            (f". {admin}", "from here on you are an administrator"),
            ("cts admin jobs; cts images; cts sites", "everybody's jobs, what may run, and where"),
            (f"REF=$(cts refdata register {BUCKET}/ann/reads/sample1.fasta)", "reference data, see docs/refdata.md"),
            ("cts refdata watch $REF", "until it is at the site"),
        )
        self._console.print(
            f"\n  Swagger UI: {url}/docs      Kafka: topic {self._service.topic} at {self._stack.kafka_bootstrap}\n"
            "  The same by curl, see docs/user-guide.md:\n"
            f'  curl -H "Authorization: Bearer $(cat $CTS_TOKEN_FILE)" {url}/jobs\n',
            markup=False,
        )

    def tell_pool(self, pool: CondorPool) -> None:
        """What can be tried at the pool."""
        self._console.print(
            "  The pool, with HTCondor's own tools; hold, release, vacate or remove a job and see what becomes of it:\n"
            f"  export CONDOR_CONFIG={pool.client_config} PATH={self._stack.parts}/condor/usr/bin:$PATH\n"
            "  condor_q -nobatch; condor_history; condor_status\n"
            "  condor_q -constraint 'CTSJobID == \"JOB_ID\"' -af:j CTSContainerNumber CTSAttempt JobStatus HoldReason\n"
            "  condor_hold CLUSTER.PROC; condor_release CLUSTER.PROC; condor_vacate_job CLUSTER.PROC\n"
            "  What the service asks the pool about a job, and the attempts of its containers, as an administrator:\n"
            "  cts admin runner-status JOB_ID; cts admin containers JOB_ID\n"
            f"  Logs of its executors are in {pool.worker_dir}, those of HTCondor's daemons in {pool.home}/state/log\n",
            markup=False,
        )

    def _print(self, text: str) -> None:
        self._console.print(text)

    def _commands(self, *commands: tuple[str, str]) -> None:
        """Commands with what they do behind them."""
        width = max(len(command) for command, _ in commands)
        for command, what in commands:
            self._console.print(f"  {command:{width}}  # {what}", markup=False)

    def _environment(self, user: str) -> Path:
        """A file that a shell reads to become this user."""
        s3 = self._stack.s3
        variables: Mapping[str, str] = {
            "CTS_URL": self._service.url,
            "CTS_TOKEN_FILE": str(self._service.token_file(user)),
            "AWS_ENDPOINT_URL": s3.url,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        }
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines += ["unset CTS_TOKEN", f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
        return self._write(f"{user}.env", "\n".join(lines) + "\n", mode=0o600)

    def _write(self, name: str, text: str, *, mode: int) -> Path:
        """The file as it is best named from here."""
        file = self._root / name
        file.touch(mode=mode)
        file.write_text(text)
        here = Path.cwd()
        return file.relative_to(here) if file.is_relative_to(here) else file


def _end_of(root: Path, *, stays: bool) -> str:
    if stays:
        return f"What is below {root} stays then."
    return f"All that is below {root} is removed then; with --dir DIR it stays, in DIR."
