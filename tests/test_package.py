"""The import packages load, compiled where that was asked for."""

import ast
import importlib
import os
from pathlib import Path

import pytest

from pointsman.policies import candidates, policy

SETUP = Path(__file__).parent.parent / "setup.py"


def compiled_sources() -> list[str]:
    """The list in setup.py, read without running it."""
    for node in ast.parse(SETUP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            sources: list[str] = ast.literal_eval(node.value)
            return sources
    raise AssertionError("setup.py has no list COMPILED")


def test_contract_modules_import() -> None:
    """The two contract modules need nothing but their declared libraries."""
    assert policy.Needs.NOTHING.value == 0
    assert candidates.NO_SLOT == -1


@pytest.mark.parametrize("source", compiled_sources())
def test_what_setup_compiles_is_there(source: str) -> None:
    """Each module of the list exists, and runs compiled exactly where the tests were asked to try that."""
    module = importlib.import_module(source.removesuffix(".py").replace("/", "."))
    suffix = Path(str(module.__file__)).suffix
    assert suffix == (".so" if os.environ.get("POINTSMAN_COMPILE") == "1" else ".py")
