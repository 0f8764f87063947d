"""The file that mypy checks (``make types``) calls everything that is public."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

import mergesafe as ms
from mergesafe import authoring, methods, ops
from mergesafe.methods.reference.write import STUB
from mergesafe.methods.registry import METHODS
from mergesafe.safety.evaluation.keywords import EvaluationKeywords
from mergesafe.safety.evaluation.options import EvaluationOptions

ROOT = Path(__file__).parents[2]


def used() -> set[str]:
    tree = ast.parse((ROOT / "tests" / "typing" / "user.py").read_text())
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_every_public_function_is_called() -> None:
    found = used()
    modules = {"MergesafeWarning", "__version__", "methods", "ops"}
    assert {f"ms.{name}" for name in ms.__all__ if name not in modules} <= found
    assert {f"ops.{name}" for name in ops.__all__} <= found
    assert {f"methods.{name}" for name in METHODS} <= found


def test_signatures_in_the_stub_are_those_of_the_functions() -> None:
    """The text of the stub is current by tests/methods/test_pages.py."""
    tree = ast.parse((ROOT / STUB).read_text())
    stubs = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert list(stubs) == list(METHODS)
    for name, node in stubs.items():
        signature = inspect.signature(getattr(methods, name)).parameters
        leading, rest = node.args.args, node.args.kwonlyargs
        assert [each.arg for each in (*leading, *rest)] == list(signature), name
        defaults = [
            each.default is not inspect.Parameter.empty
            for each in signature.values()
            if each.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        assert [each is not None for each in node.args.kw_defaults] == defaults, name


def test_keywords_of_an_evaluation_are_its_options() -> None:
    assert list(EvaluationKeywords.__annotations__) == [f.name for f in fields(EvaluationOptions)]


@pytest.mark.parametrize("module", [ms, ops, authoring], ids=lambda module: module.__name__)
def test_every_public_name_can_be_loaded_and_says_what_it_is(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        each = getattr(module, name)
        assert isinstance(each, str) or inspect.getdoc(each), name
