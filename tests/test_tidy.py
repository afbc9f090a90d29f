"""The tree keeps its own rules: where imports point, what has a test, what has a page, what must not be left."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import house
import pytest
from house_exceptions import CONSTRUCTORS, FUNCTIONS, LARGE_CLASSES, PLAIN_DATA, TESTED_BY, UPWARD
from plain_words import complaint

from pointsman.policies.registry import POLICIES

pytestmark = pytest.mark.xdist_group("tidy")  # it reads the tree once

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

ROUTER_FLOORS = (
    "errors",
    "counts",
    "process",
    "documents",
    "tenancy",
    "journal",
    "fleet",
    "outliers",
    "settings",
    "kv",
    "requests",
    "decide",
    "core",
    "edges",
    "watch",
    "metrics",
    "fronts",
    "fronts.api",
    "app",
)
"""Boxes of `router/`, the lowest first: each imports only those before it (tests/support/house.py draws them)."""

PAIRED = ("contract", "policies", "haproxy", "router", "engine", "simulator", "pointsman")
"""Folders each of whose modules has a test of its name."""

HEAVY = {"ray", "vllm", "torch", "transformers", "tokenizers"}
"""Imported only inside functions of `engine/vllm`: the base install works without."""

ASYNC_FREE = (
    "policies",
    "haproxy/spop",
    "router/decide",
    "router/documents",
    "router/fleet",
    "router/kv",
    "router/outliers",
    "router/requests",
    "router/tenancy",
    "router/core.py",
    "engine/sim/model.py",
)
"""Await at the edge, decide in the middle."""

MAX_LINES = 400
MAX_TEST_LINES = 500
LONG_FILES: dict[str, str] = {}
"""Files allowed to be longer, each with its reason."""

WORDS = re.compile(r"\b(TODO|FIXME|XXX)\b")


def sources(*packages: str) -> list[Path]:
    """Python files below these folders; those behind the links of `pointsman/` count once."""
    return [ROOT / source.name for source in read(*packages)]


@cache
def read(*packages: str) -> list[house.Source]:
    return house.sources(ROOT, *packages)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_of(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Absolute module names a file imports."""
    tree = parsed(path)
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
    """A module says what it owns, and a file of tests what it tests."""
    for source in read(*PACKAGES, "tests"):
        if source.text.strip():
            assert ast.get_docstring(source.tree), f"{source.name}: no module docstring"


def test_rooms_of_the_router_import_downwards() -> None:
    """Each box stands on those below it, so that one can read from the bottom up."""
    seen = house.graph(read("router"), "router", "pointsman.")
    names = [box.removeprefix("router.") for box in seen.boxes]
    assert set(names) <= set(ROUTER_FLOORS), f"{set(names) - set(ROUTER_FLOORS)}: name their floors in ROUTER_FLOORS"
    up = {
        (box, target)
        for box, targets in ((box.removeprefix("router."), targets) for box, targets in seen.arrows.items())
        for target in (name.removeprefix("router.") for name in targets)
        if ROUTER_FLOORS.index(target) >= ROUTER_FLOORS.index(box)
    }
    assert up == set(UPWARD), (
        f"new: {sorted(up - set(UPWARD))}, gone: {sorted(set(UPWARD) - up)}: move what is imported down, or mend UPWARD"
    )


def test_each_module_has_its_test() -> None:
    """`tests/<folder>/test_<module>.py` tests `<folder>/<module>.py`, or a list says what does."""
    missing = set()
    for source in read(*PAIRED):
        path = Path(source.name)
        test = ROOT / "tests" / path.parent / f"test_{path.stem.strip('_')}.py"
        if path.name != "__init__.py" and not test.exists():
            missing.add(source.name)
    folders = tuple(name for name in TESTED_BY if name.endswith("/"))
    missing = {next((folder for folder in folders if name.startswith(folder)), name) for name in missing}
    listed = TESTED_BY.keys() | set(PLAIN_DATA)
    assert missing == listed, f"without a test: {sorted(missing - listed)}, no longer so: {sorted(listed - missing)}"


def test_what_tests_an_unpaired_module_exists() -> None:
    """The lists of exceptions name files that are there."""
    for module, test in TESTED_BY.items():
        assert (ROOT / "tests" / test).exists(), f"{module} is said to be tested by tests/{test}, which is not there"


def one(name: str) -> house.Source:
    return house.Source(name, (ROOT / name).read_text())


@pytest.mark.parametrize(
    ("measured", "listed", "instead"),
    [
        pytest.param(house.constructors_over, CONSTRUCTORS, "pass a value with names", id="constructors"),
        pytest.param(house.classes_over, LARGE_CLASSES, "look for the second noun in it", id="classes"),
        pytest.param(house.functions_over, FUNCTIONS, "name its parts", id="functions"),
    ],
)
def test_nothing_grew_too_long(
    measured: Callable[[list[house.Source]], Mapping[str, int]], listed: Mapping[str, str], instead: str
) -> None:
    """Constructors of 8 arguments, classes of 20 methods, functions of 60 lines; a few are listed, with a reason."""
    over = measured(read(*PAIRED))
    new, gone = over.keys() - listed.keys(), listed.keys() - over.keys()
    assert not new, f"{[f'{name} ({over[name]})' for name in sorted(new)]}: {instead}"
    assert not gone, f"{sorted(gone)}: short enough by now, take them off the list in house_exceptions.py"


def test_stories_begin_at_functions_that_exist() -> None:
    """The entries of house.py are followed by hand only, so a rename is noticed here."""
    for entry in " ".join(house.STORIES.values()).split():
        module, _, qualified = entry.partition(":")
        name = module.replace(".", "/") + ".py"
        assert f"{name}:{qualified}" in dict(house.definitions(one(name))), f"{entry}: mend STORIES in house.py"


def test_no_binary_is_in_the_tree() -> None:
    """What is tracked can be read: wheels, images and dumps are made where they are needed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=60)
    if listed.returncode:
        pytest.skip("no git checkout")
    for name in listed.stdout.decode().split("\0")[:-1]:
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            assert b"\0" not in path.read_bytes(), f"{name} is binary: make it where it is needed"


PLAIN = (
    *("contract", "policies", "haproxy", "engine", "simulator", "pointsman", "bench"),
    *("router/decide", "router/fleet", "router/fronts", "router/metrics", "router/outliers", "router/process"),
    *("router/requests", "router/watch", "router/edges", "router/kv"),
)


@pytest.mark.parametrize("package", PLAIN)
def test_docstrings_name_their_subject(package: str) -> None:
    """A docstring is read alone, in an editor's tooltip: its first word is no pronoun."""
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text())):
            body = getattr(node, "body", None)
            for statement in body if isinstance(body, list) else ():
                if isinstance(statement, ast.Expr) and isinstance(text := getattr(statement.value, "value", None), str):
                    wrong = text.strip() and complaint(text.strip())
                    assert not wrong, f"{path.relative_to(ROOT)}:{statement.lineno}: {wrong}"


def test_no_file_became_the_architecture() -> None:
    """Past so many lines a file holds two ideas; split it, or list it with a reason."""
    for source in read(*PACKAGES, "tests"):
        limit = MAX_TEST_LINES if source.name.startswith("tests/") else MAX_LINES
        assert source.lines <= limit or source.name in LONG_FILES, (
            f"{source.name} has {source.lines} lines: split it by owner"
        )


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
