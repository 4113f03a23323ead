"""Fixtures for all tests. Nothing starts before a test asks for it."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from cdmtaskservice.embedded.image import Pushed, push_seqtool
from cdmtaskservice.embedded.pool import CondorPool, missing_pool_parts
from cdmtaskservice.embedded.stack import EmbeddedStack, default_parts, missing_parts

# How long an example takes says more of the machine's other work than of the code.
hypothesis.settings.register_profile("cts", deadline=None)
hypothesis.settings.load_profile("cts")

# Modules and thousands of tests make no garbage, and searching them takes half of the time until the first test runs.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """From here on there is garbage."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With CTS_REQUIRE_PARTS a test that is skipped has failed: something that it needs is missing."""
    report: pytest.TestReport = yield
    if report.skipped and os.environ.get("CTS_REQUIRE_PARTS"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CTS_REQUIRE_PARTS is set: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what tests have measured: the properties that they recorded."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def parts() -> Path:
    """The directory of the fetched parts; without them the test is skipped, or fails if CTS_REQUIRE_PARTS is set."""
    directory = default_parts()
    if missing := missing_parts(directory):
        reason = f"missing: {'; '.join(missing)} (run `make setup`)"
        if os.environ.get("CTS_REQUIRE_PARTS"):
            pytest.fail(f"{reason}, and CTS_REQUIRE_PARTS is set", pytrace=False)
        pytest.skip(reason)
    return directory


@pytest.fixture(scope="session")
def stack(parts: Path) -> Iterator[EmbeddedStack]:
    """One embedded stack for the whole session."""
    # pytest's own directories have names that are too long for unix sockets in some of the parts.
    root = Path(tempfile.mkdtemp(prefix="cts-test-"))
    try:
        with EmbeddedStack(root, parts) as running:
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def pool(stack: EmbeddedStack) -> Iterator[CondorPool]:
    """One HTCondor pool for the whole session."""
    if missing := missing_pool_parts(stack.parts):
        reason = f"missing: {'; '.join(missing)} (run `make setup`)"
        if os.environ.get("CTS_REQUIRE_PARTS"):
            pytest.fail(f"{reason}, and CTS_REQUIRE_PARTS is set", pytrace=False)
        pytest.skip(reason)
    with CondorPool(stack.root / "pool", stack.parts, stack.registry) as running:
        yield running


@pytest.fixture(scope="session")
def seqtool_image(stack: EmbeddedStack) -> Pushed:
    """The demo's FASTA tool, in the stack's registry."""
    return push_seqtool(stack.registry, stack.parts)


@pytest.fixture(autouse=True)
def _parts_come_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that takes a part away and fails does not take it from the tests after it."""
    shared: EmbeddedStack | None = request.getfixturevalue("stack") if "stack" in request.fixturenames else None
    yield
    if shared is not None:
        shared.restore()
