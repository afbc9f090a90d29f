"""Which files a story opens, by mypy's types: see the rules in house.py, which starts this."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from mypy import nodes
from mypy.build import BuildSource, build
from mypy.config_parser import parse_config_file
from mypy.modulefinder import BuildSource as Wanted
from mypy.options import Options
from mypy.types import CallableType, Instance, Type, TypeType, UnionType, get_proper_type

__all__ = ["Reader"]


def _named(body: nodes.Node, types: dict[nodes.Expression, Type]) -> Iterator[nodes.SymbolNode | None]:
    """What a body refers to: functions and classes by name, members of typed values."""
    for node in _within(body):
        if isinstance(node, nodes.RefExpr):
            yield node.node
        if isinstance(node, nodes.MemberExpr):
            for info in _classes(types.get(node.expr)):
                found = info.get(node.name)
                yield found.node if found is not None else None


def _within(node: object) -> Iterator[nodes.Node]:
    """The nodes of a tree. mypy's own visitors are compiled, and nothing interpreted may derive from them."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _within(item)
    elif isinstance(node, nodes.Argument):
        yield from _within(node.initializer)
    elif isinstance(node, nodes.Statement | nodes.Expression | nodes.FuncItem):
        yield node
        for name in (*getattr(node, "__match_args__", ()), "rvalue"):  # which mypy calls `rvalues` there
            if name not in ("node", "info", "type"):
                yield from _within(getattr(node, name, None))


def _classes(given: Type | None) -> Iterator[nodes.TypeInfo]:
    """The classes that a value of this type may be of."""
    plain = get_proper_type(given)
    if isinstance(plain, Instance):
        yield plain.type
    elif isinstance(plain, UnionType):
        for item in plain.items:
            yield from _classes(item)
    elif isinstance(plain, TypeType):
        yield from _classes(plain.item)
    elif isinstance(plain, CallableType) and plain.is_type_obj():
        yield plain.type_object()


class Reader:
    """A checkout as mypy understands it."""

    def __init__(self, root: Path, packages: Iterable[str]) -> None:
        """Reads every module of these folders of `root`, the current folder."""
        options = Options()
        parse_config_file(options, lambda: None, str(root / "pyproject.toml"), sys.stdout, sys.stderr)
        options.incremental = False
        options.export_types = True
        options.preserve_asts = True
        wanted: list[BuildSource] = []
        prefix = "pointsman." if (root / "pointsman" / "router").is_dir() else ""
        for package in packages:
            for path in sorted((root / package).rglob("*.py")):
                if path.resolve() == path:
                    relative = path.relative_to(root)
                    dotted = str(relative).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                    inner = dotted == "pointsman" or dotted.startswith("pointsman.")
                    name = dotted if inner or not prefix else prefix + dotted
                    shown = relative if inner or not prefix else Path("pointsman") / relative
                    wanted.append(Wanted(str(shown), name))
        result = build(wanted, options)
        self._types = result.types
        self._root = root
        self._files = {name: file for name, file in result.files.items() if self._inside(file.path)}

    def _inside(self, path: str) -> bool:
        return (self._root / path).resolve().is_relative_to(self._root) and "site-packages" not in path

    def files_of(self, entries: Iterable[str]) -> set[str]:
        """Paths in the checkout of every file opened from these entry functions, `module:qualified name` each."""
        todo: list[nodes.FuncDef] = [self._entry(entry) for entry in entries]
        seen = set(todo)
        files: set[str] = set()
        while todo:
            function = todo.pop()
            module = self._module_of(function)
            if module is None:
                continue
            files.add(str((self._root / self._files[module].path).resolve().relative_to(self._root)))
            for symbol in [*_named(function, self._types), *self._stored(function)]:
                for other in _functions(symbol):
                    if other not in seen:
                        seen.add(other)
                        todo.append(other)
        return files

    def _stored(self, function: nodes.FuncDef) -> Iterator[nodes.SymbolNode | None]:
        """What was assigned to the attributes that a method calls: `self._decide = decider.decide` in a constructor."""
        if not function.info or function.name == "__init__":
            return
        called = {
            node.callee.name
            for node in _within(function)
            if isinstance(node, nodes.CallExpr) and isinstance(node.callee, nodes.MemberExpr)
        }
        constructor = function.info.get_method("__init__")
        for statement in _within(constructor):
            if not isinstance(statement, nodes.AssignmentStmt):
                continue
            target = statement.lvalues[0]
            if isinstance(target, nodes.MemberExpr) and target.name in called:
                yield from _named(statement.rvalue, self._types)

    def _module_of(self, function: nodes.FuncDef) -> str | None:
        """The module of ours that a function is in; None for libraries."""
        name = function.fullname
        while name and name not in self._files:
            name = name.rpartition(".")[0]
        return name or None

    def _entry(self, entry: str) -> nodes.FuncDef:
        module, _, qualified = entry.partition(":")
        symbols = self._files[module].names
        *classes, last = qualified.split(".")
        for name in classes:
            inner = symbols[name].node
            assert isinstance(inner, nodes.TypeInfo), f"{entry}: {name} is no class"
            symbols = inner.names
        (function,) = _functions(symbols[last].node)
        return function


def _functions(symbol: nodes.SymbolNode | None) -> Iterator[nodes.FuncDef]:
    """The functions whose text one reads for this name: of a class, its constructor."""
    if isinstance(symbol, nodes.FuncDef):
        yield symbol
    elif isinstance(symbol, nodes.Decorator):
        yield symbol.func
    elif isinstance(symbol, nodes.OverloadedFuncDef):
        for item in symbol.items:
            yield from _functions(item)
    elif isinstance(symbol, nodes.TypeInfo):
        constructor = symbol.names.get("__init__")
        if constructor is not None:
            yield from _functions(constructor.node)
