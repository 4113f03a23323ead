"""What lets the executor run on a worker: old Python, the standard library and awscrt alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cdmtaskservice.executor

ROOT = Path(cdmtaskservice.executor.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_module_is_python_3_9_and_imports_nothing_else(module: Path) -> None:
    text = module.read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    assert len(text.splitlines()) < 500
    if text:
        assert "from __future__ import annotations" in text
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            assert name.partition(".")[0] in {*sys.stdlib_module_names, "awscrt"}, f"{module.name}: {name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            options = {k.arg for k in node.keywords}
            assert not (node.func.id == "zip" and "strict" in options)
            assert not (node.func.id == "dataclass" and options & {"slots", "kw_only"})
            # A union with | exists at run time only from Python 3.10 on.
            if node.func.id in {"isinstance", "issubclass", "cast", "TypeVar"}:
                assert not any(isinstance(a, ast.BinOp) for a in node.args)


def test_start_imports_nothing_heavy() -> None:
    script = "import sys, cdmtaskservice.executor.__main__; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert not {"awscrt", "ssl", "http.client", "asyncio"} & set(ran.stdout.split())
