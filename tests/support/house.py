"""What the house looks like: sizes, import graph, long things, and how many files one opens to follow a story.

    python tests/support/house.py                     # this checkout
    python tests/support/house.py OTHER_CHECKOUT      # another one; also of an older layout, see --prefix
    python tests/support/house.py --no-follow         # without the part that needs mypy (a minute)

The figures come from syntax trees and, for stories, from mypy's types; nothing of the checkout is imported or run.
`tests/test_tidy.py` holds limits over the same functions.

Rules. A *box* of `router/` is a file of the folder itself or a folder below it (of any depth). An *arrow* is an import
between two boxes, anywhere in the file, types included. A *floor* is one more than the highest floor a box imports;
boxes of one circle stand on one floor, and the arrows between them are counted as circular. Constructors count the
arguments of a written `__init__`, without `self`. A *story* starts at named entry functions; from each
function, every function, method, property or class of ours that its body names is opened too, and so on. A method
called through a base class opens the base alone; a call through a stored callback opens nothing; what only fails or
only logs is followed like the rest. Of a class, the constructor is opened.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("contract", "policies", "haproxy", "router", "engine", "simulator", "pointsman", "bench", "tests")

MAX_ARGUMENTS = 8
MAX_METHODS = 20
MAX_FUNCTION_LINES = 60

STORIES = {
    "a lookup to its end": (
        "router.fronts.spop:SPOPProtocol.data_received router.fronts.ring:RingProtocol.data_received"
    ),
    "an engine's event": "router.fronts.feed:FeedProtocol.data_received",
    "a Redis batch": "router.edges.protocol:EdgeProtocol.receive",
}
"""Entry functions by story, as `module:qualified name` without the package's own name, separated by blanks."""


@dataclass(frozen=True)
class Source:
    """One file of the tree: its path in the checkout and its syntax tree."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def module(self) -> str:
        """Dotted, from the root of the checkout: `router.kv.state`."""
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def sources(root: Path, *folders: str) -> list[Source]:
    """Every Python file below these folders, those behind links left out."""
    found: list[Source] = []
    for folder in folders:
        paths = sorted((root / folder).rglob("*.py"))
        own = [path for path in paths if path.resolve() == root.resolve() / path.relative_to(root)]
        found += [Source(str(path.relative_to(root)), path.read_text()) for path in own]
    return found


# The import graph


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Absolute names of what a file imports, anywhere in it: `a.b` and `a.b.name` for `from a.b import name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def box_of(module: str, modules: set[str], folder: str) -> str | None:
    """The box of `folder` that a dotted name lies in; None outside of it.

    A box is a file of the folder itself or a folder below it: `router.kv.state` lies in `router.kv`.
    """
    parts = module.split(".")
    while parts and ".".join(parts) not in modules:
        parts.pop()
    if not parts or parts[0] != folder or len(parts) == 1:
        return None
    return ".".join(parts) if len(parts) == 2 else ".".join(parts[:-1])


@dataclass
class Graph:
    """Boxes of one folder and the arrows between them."""

    arrows: dict[str, set[str]]

    @property
    def boxes(self) -> list[str]:
        return sorted(self.arrows)

    @property
    def arrow_count(self) -> int:
        return sum(map(len, self.arrows.values()))

    @cached_property
    def circles(self) -> list[list[str]]:
        """Boxes that reach each other, as groups of two or more."""
        reach = {box: self._reachable(box) for box in self.arrows}
        groups = {tuple(sorted(other for other in reach[box] if box in reach[other])) for box in self.arrows}
        return sorted(list(group) for group in groups if len(group) > 1)

    @cached_property
    def circular(self) -> list[tuple[str, str]]:
        """Arrows inside of circles."""
        return [(a, b) for group in self.circles for a in group for b in sorted(self.arrows[a]) if b in group]

    def floors(self) -> dict[str, int]:
        """Each box's floor, from 1; boxes of one circle share one."""
        group_of = {box: (box,) for box in self.arrows} | {box: tuple(group) for group in self.circles for box in group}
        known: dict[tuple[str, ...], int] = {}

        def floor(group: tuple[str, ...]) -> int:
            if group not in known:
                below = {group_of[target] for box in group for target in self.arrows[box]} - {group}
                known[group] = 1 + max((floor(other) for other in below), default=0)
            return known[group]

        return {box: floor(group_of[box]) for box in self.arrows}

    def _reachable(self, box: str) -> set[str]:
        seen: set[str] = set()
        todo = [box]
        while todo:
            for target in self.arrows[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        return seen


def graph(found: Iterable[Source], folder: str, prefix: str) -> Graph:
    """The boxes of `folder` among these sources. `prefix` is what stands before its name in an import: "pointsman."."""
    inside = [source for source in found if source.name.startswith(f"{folder}/")]
    modules = {source.module for source in inside} | {folder}
    arrows: dict[str, set[str]] = defaultdict(set)
    for source in inside:
        box = box_of(source.module, modules, folder)
        if box is None:
            continue  # the folder's own __init__
        targets = {
            box_of(name.removeprefix(prefix), modules, folder)
            for name in imports_of(source.tree)
            if name.startswith(f"{prefix}{folder}.")
        }
        arrows[box] |= {target for target in targets if target is not None} - {box}
    for target in set().union(*arrows.values()) if arrows else set():
        arrows.setdefault(target, set())
    return Graph(dict(arrows))


# Long things


Function = ast.FunctionDef | ast.AsyncFunctionDef


def definitions(source: Source) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Every function and class of a file, as `path:Qualified.name`."""

    def walk(node: ast.AST, above: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{above}.{child.name}" if above else child.name
                yield f"{source.name}:{name}", child
                yield from walk(child, name)
            else:
                yield from walk(child, above)

    return walk(source.tree, "")


def constructors_over(found: Iterable[Source], limit: int = MAX_ARGUMENTS) -> dict[str, int]:
    """Classes whose `__init__` takes more arguments than that, each with their number."""
    over = {}
    for source in found:
        for name, node in definitions(source):
            if isinstance(node, ast.ClassDef):
                inits = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
                if inits:
                    taken = inits[0].args
                    count = len(taken.posonlyargs) + len(taken.args) + len(taken.kwonlyargs) - 1
                    if count > limit:
                        over[name] = count
    return over


def classes_over(found: Iterable[Source], limit: int = MAX_METHODS) -> dict[str, int]:
    """Classes with more methods than that, properties and private ones included."""
    over = {}
    for source in found:
        for name, node in definitions(source):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)
                if methods > limit:
                    over[name] = methods
    return over


def functions_over(found: Iterable[Source], limit: int = MAX_FUNCTION_LINES) -> dict[str, int]:
    """Functions longer than that many lines, decorators and docstring included."""
    over = {}
    for source in found:
        for name, node in definitions(source):
            if not isinstance(node, ast.ClassDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                lines = (node.end_lineno or first) - first + 1
                if lines > limit:
                    over[name] = lines
    return over


# Stories


def follow(root: Path, prefix: str, stories: dict[str, str], packages: list[str]) -> dict[str, set[str]]:
    """The files that each story opens. Takes a minute: mypy reads the whole checkout."""
    from house_stories import Reader  # it needs mypy, and the limits do not

    reader = Reader(root, packages)
    return {story: reader.files_of([prefix + entry for entry in entries.split()]) for story, entries in stories.items()}


# The report


def report(root: Path, prefix: str, folders: list[str], rooms: list[str], stories: dict[str, str]) -> Iterator[str]:
    found = sources(root, *folders)
    lines: dict[str, int] = defaultdict(int)
    for source in found:
        lines[source.name.partition("/")[0]] += source.lines
    production = [name for name in folders if name not in ("tests", "bench")]
    yield f"# {root}"
    yield "Lines of Python: " + ", ".join(f"{name} {lines[name]:,}" for name in folders)
    yield f"Production: {sum(lines[name] for name in production):,}"
    for room in rooms:
        seen = graph(found, room, prefix)
        floors = seen.floors()
        loose = sum(1 for source in found if source.name.count("/") == 1 and source.name.startswith(f"{room}/"))
        yield (
            f"\n{room}/: {loose} loose files, {len(seen.boxes)} boxes, {max(floors.values())} floors, "
            f"{seen.arrow_count} arrows, {len(seen.circular)} of them in {len(seen.circles)} circles"
        )
        for floor in range(max(floors.values()), 0, -1):
            yield f"  {floor}: " + "  ".join(box.removeprefix(f"{room}.") for box in seen.boxes if floors[box] == floor)
        for circle in seen.circles:
            yield "  circle: " + ", ".join(circle)
    made = [source for source in found if source.name.partition("/")[0] in production]
    for what, over in (
        (f"constructors over {MAX_ARGUMENTS} arguments", constructors_over(made)),
        (f"classes over {MAX_METHODS} methods", classes_over(made)),
        (f"functions over {MAX_FUNCTION_LINES} lines", functions_over(made)),
    ):
        yield f"\n{len(over)} {what}"
        yield from (f"  {count:4} {name}" for name, count in sorted(over.items(), key=lambda item: -item[1]))
    if stories:
        packages = [name for name in production if (root / name).is_dir()]
        for story, files in follow(root, prefix, stories, packages).items():
            total = sum(source.lines for source in found if source.name in files)
            yield f"\n{story}: {len(files)} files, {total:,} lines"
            yield from (f"  {name}" for name in sorted(files))


def main() -> None:
    parser = argparse.ArgumentParser(description="Sizes, import graph and long things of a checkout.")
    parser.add_argument("checkout", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--prefix", default="pointsman.", help="stands before a folder's name in imports; '' if none")
    parser.add_argument("--folders", nargs="+", default=list(FOLDERS))
    parser.add_argument("--rooms", nargs="+", default=["router"], help="folders whose inner imports are drawn")
    parser.add_argument("--story", action="append", default=[], help="'NAME=module:function module:function'")
    parser.add_argument("--no-follow", action="store_true", help="without stories, which take a minute")
    given = parser.parse_args()
    stories = dict(story.split("=", 1) for story in given.story) or STORIES
    root = given.checkout.resolve()
    os.chdir(root)
    folders = [name for name in given.folders if (root / name).is_dir()]
    for line in report(root, given.prefix, folders, given.rooms, {} if given.no_follow else stories):
        print(line)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
