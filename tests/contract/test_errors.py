"""The errors people meet: one small tree in one place, each with an exit code of its own."""

from __future__ import annotations

import ast

import pytest

from schemas import errors
from schemas.errors import HealthAllianceError
from tests.contract.source_code import Module, module, product_modules

ERRORS: dict[str, type[HealthAllianceError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type)
}
TAKEN = {0, 1, 2, 130}  # done, something is invalid, wrong usage, interrupted


def test_every_error_belongs_to_the_tree_and_has_an_exit_code_of_its_own() -> None:
    assert [name for name, kind in ERRORS.items() if not issubclass(kind, HealthAllianceError)] == []
    codes = [kind.exit_code for kind in ERRORS.values()]
    assert len(set(codes)) == len(codes) > 5
    assert not TAKEN & set(codes)


@pytest.mark.parametrize("name", ERRORS)
def test_an_errors_docstring_is_its_message(name: str) -> None:
    assert str(ERRORS[name]()) == ERRORS[name].__doc__
    assert str(ERRORS[name]("Something else.")) == "Something else."
    assert str(ERRORS[name].__doc__).endswith(".")


def exit_codes_in(one: Module) -> set[str]:
    """Name the classes that give themselves an exit code."""
    return {
        f"{one.path} {scope}"
        for scope, node in one.nodes()
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "exit_code" for target in node.targets)
    }


def test_the_scan_finds_an_exit_code_given_elsewhere() -> None:
    assert exit_codes_in(module("x.py", "class A(UnavailableError):\n    exit_code = 4")) == {"x.py A"}


def test_exit_codes_are_given_in_the_tree_only() -> None:
    found = {place for one in product_modules() for place in exit_codes_in(one)}
    assert {place for place in found if not place.startswith("schemas/errors.py ")} == set()
