"""The tree keeps its own rules: where imports point, what has a test, what has a page, what must not be left."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pointsman.policies.registry import POLICIES

ROOT = Path(__file__).parent.parent
PACKAGES = ("contract", "policies", "haproxy", "router", "engine", "simulator", "pointsman", "bench")
"""Folders of the root; all but `bench` are importable as `pointsman.FOLDER`, through links in `pointsman/`."""

MAY_IMPORT = {
    "contract": set(),
    "policies": {"contract"},
    "haproxy": {"contract"},
    "router": {"contract", "policies", "haproxy"},
    "engine": {"contract"},
    "simulator": {"contract", "policies", "router", "engine"},
    "pointsman": {"contract", "policies", "haproxy", "router", "engine", "simulator"},
    "bench": {"contract", "policies", "haproxy", "router", "engine", "simulator", "pointsman"},
}
"""Which of our packages each may import besides itself (DESIGN: imports point one way)."""

HEAVY = {"ray", "vllm", "torch", "transformers", "tokenizers"}
"""Imported only inside functions of `engine/vllm`: the base install works without."""

ASYNC_FREE = (
    "policies",
    "haproxy/spop",
    "router/decide",
    "router/fleet",
    "router/kv",
    "router/outliers",
    "router/requests",
    "router/core.py",
    "engine/sim/model.py",
)
"""Await at the edge, decide in the middle."""

MAX_LINES = 500
LONG_FILES: dict[str, str] = {}
"""Files allowed to be longer, each with its reason."""

WORDS = re.compile(r"\b(TODO|FIXME|XXX)\b")


def sources(*packages: str) -> list[Path]:
    found = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if path.resolve() == path]  # those behind the links of `pointsman/` count once


def imports_of(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Absolute module names a file imports."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree)
    if top_level_only:
        nodes = (node for statement in tree.body if not is_type_checking(statement) for node in walk_outside(statement))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name, so that one can search for it"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def walk_outside(node: ast.AST):
    """Nodes that run at import: not what is inside functions."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from walk_outside(child)


def owner_of(module: str) -> str:
    """The folder of the root that a module of ours belongs to; empty for a module of others."""
    top, _, rest = module.partition(".")
    if top != "pointsman":
        return top if top == "bench" else ""
    folder = rest.partition(".")[0]
    return folder if folder in PACKAGES else "pointsman"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    """A package imports only what DESIGN lets it; `contract` is what engines and routers share."""
    for path in sources(package):
        for name in imports_of(path):
            owner = owner_of(name)
            assert owner in {"", package} | MAY_IMPORT[package], (
                f"{path.relative_to(ROOT)} imports {name}: {package}/ may import {sorted(MAY_IMPORT[package])}"
            )


def test_there_is_one_name_for_each_module() -> None:
    """`import router` works where the root is on the path, and would load a second copy of each class."""
    folders = set(PACKAGES) - {"pointsman", "bench"}
    for path in [*sources(*PACKAGES), *sorted((ROOT / "tests").rglob("*.py"))]:
        wrong = {name for name in imports_of(path) if name.split(".")[0] in folders}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}: write pointsman. before it"


def test_the_package_links_to_every_folder() -> None:
    """`pointsman/FOLDER` is the folder of that name in the root."""
    for folder in set(PACKAGES) - {"pointsman", "bench"}:
        assert (ROOT / "pointsman" / folder).resolve() == ROOT / folder


def test_heavy_packages_are_imported_inside_functions() -> None:
    """`pip install pointsman` has no ray and no vllm, and everything but their own commands works."""
    for path in sources(*PACKAGES):
        heavy = {name.split(".")[0] for name in imports_of(path, top_level_only=True)} & HEAVY
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} at module level: import it where it is used"


@pytest.mark.parametrize("where", ASYNC_FREE)
def test_the_middle_does_not_await(where: str) -> None:
    """Policies, codec, state and pipeline are plain functions: nothing else runs between reading and reserving."""
    path = ROOT / where
    for source in [path] if path.suffix else sorted(path.rglob("*.py")):
        if not source.exists():
            continue
        text = source.read_text()
        assert "asyncio" not in imports_of(source), (
            f"{source.relative_to(ROOT)} imports asyncio: await in a front instead"
        )
        assert not re.search(r"^\s*async def", text, re.M), f"{source.relative_to(ROOT)} defines a coroutine"


def test_each_policy_has_its_page_and_its_test() -> None:
    """A policy nobody can read about, or that nothing tests, does not ship."""
    for name, policy in POLICIES.items():
        assert (ROOT / "docs" / "policies" / f"{name}.md").exists(), f"docs/policies/{name}.md is missing"
        folder, _, module = policy.__module__.removeprefix("pointsman.").replace(".", "/").rpartition("/")
        test = ROOT / "tests" / folder / f"test_{module}.py"
        assert test.exists(), f"{test.relative_to(ROOT)} is missing"


def test_each_module_has_a_docstring() -> None:
    """A module says what it owns."""
    for path in sources(*PACKAGES):
        if path.name == "__init__.py" and not path.read_text().strip():
            continue
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)}: no module docstring"


def test_no_file_became_the_architecture() -> None:
    """Past 500 lines a file holds two ideas; split it, or list it with a reason."""
    for path in sources(*PACKAGES, "tests"):
        lines = path.read_text().count("\n")
        name = str(path.relative_to(ROOT))
        assert lines <= MAX_LINES or name in LONG_FILES, f"{name} has {lines} lines: split it by owner"


def test_nothing_is_left_unfinished() -> None:
    """Work to do is an issue, not a word in the code."""
    own = Path(__file__).name
    for path in [*sources(*PACKAGES, "tests"), *sorted((ROOT / "haproxy").rglob("*.lua"))]:
        if path.name != own:
            found = WORDS.search(path.read_text())
            assert not found, f"{path.relative_to(ROOT)}: {found.group() if found else ''}"


def test_tests_have_no_packages() -> None:
    """importlib mode: an __init__.py would give test modules names that clash."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
