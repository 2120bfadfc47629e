"""The product's own source, as syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "connectors", "streams", "model_training", "healthalliance")


@dataclass(frozen=True)
class Module:
    """A product module: its path below the project's root, and its tree."""

    path: str
    tree: ast.Module

    def nodes(self) -> Iterator[tuple[str, ast.AST]]:
        """Yield every node with the innermost function or class it stands in, `<module>` outside of all."""

        def walk(node: ast.AST, scope: str) -> Iterator[tuple[str, ast.AST]]:
            for child in ast.iter_child_nodes(node):
                yield scope, child
                named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                yield from walk(child, child.name if named else scope)  # type: ignore[attr-defined]  # named says so

        return walk(self.tree, "<module>")


@cache
def product_modules() -> tuple[Module, ...]:
    files = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return tuple(Module(str(file.relative_to(ROOT)), ast.parse(file.read_text("utf-8"))) for file in files)


def module(path: str, source: str) -> Module:
    """Make a module from text, to show that a scan finds what it looks for."""
    return Module(path, ast.parse(source))
