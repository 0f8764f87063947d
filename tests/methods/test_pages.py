"""The method reference: made from the declarations, up to date, and with recipes that work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mergesafe.errors import MethodError
from mergesafe.methods.authoring import Parameter, tile_method
from mergesafe.methods.declaration import check_declaration
from mergesafe.methods.reference.cost import costs_of
from mergesafe.methods.reference.docstring import body_of, summary_of
from mergesafe.methods.reference.page import as_dict, page_of
from mergesafe.methods.reference.recipe import recipe_of
from mergesafe.methods.reference.write import reference, stale
from mergesafe.methods.registry import METHODS
from mergesafe.recipe.load import load_recipe
from mergesafe.recipe.method_names import MERGEKIT_METHODS

ROOT = Path(__file__).parents[2]


def test_pages_of_the_documentation_are_up_to_date() -> None:
    """Run ``python -m mergesafe.methods.reference.write`` where this fails."""
    old = [
        str(path)
        for path, text in reference(ROOT, METHODS).items()
        if not (ROOT / path).exists() or (ROOT / path).read_text() != text
    ]
    assert old == []
    assert list(stale(ROOT, METHODS)) == []


def test_the_readme_counts_the_methods() -> None:
    [(all_, of_mergekit)] = re.findall(
        r"\[(\d+) methods\]\(docs/methods\.md\), mergekit's (\d+) among them",
        (ROOT / "README.md").read_text(),
    )
    assert (int(all_), int(of_mergekit)) == (len(METHODS), len(MERGEKIT_METHODS))
    assert set(METHODS) >= MERGEKIT_METHODS


@pytest.mark.parametrize("name", METHODS)
def test_the_recipe_on_a_page_is_valid(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(recipe_of(METHODS[name]))
    assert load_recipe(path).merge_method == name


@pytest.mark.parametrize("name", METHODS)
def test_a_page_says_what_a_user_asks(name: str) -> None:
    method = METHODS[name]
    page = page_of(method)
    assert page.startswith(f"# {method.title}\n\n`{name}`: ")
    assert summary_of(method).endswith(".")
    assert "## When to use it" in page
    assert method.paper in page
    assert all(f"| `{each.name}` |" in page for each in method.parameters)
    assert f"`{method.exact}`" in page
    # left over from reStructuredText
    assert "``" not in page.replace("```", "")
    assert "::" not in page
    for target in re.findall(r"\]\(([^)]*)\)", page):
        assert "://" in target or (ROOT / "docs/methods" / target.partition("#")[0]).is_file()


def test_what_a_method_costs() -> None:
    matrix, vector = costs_of(METHODS["iso_c"])
    assert (matrix.unit.value, vector.unit.value) == ("matrix", "element")
    assert matrix.least == matrix.most == 1
    [ties, _] = costs_of(METHODS["ties"])
    assert (ties.statistics, ties.before, ties.least, ties.most) == (("k-th magnitude",), 0, 2, 3)
    [stitch, _] = costs_of(METHODS["localize_stitch"])
    assert (stitch.before, stitch.most) == (2, 1)


def test_methods_that_share_a_file_have_a_sentence_each_and_its_formula() -> None:
    one, two = METHODS["dare_linear"], METHODS["dare_ties"]
    assert summary_of(one) != summary_of(two)
    formula = "out = b + lambda * (sum of the kept d_i)"
    assert formula in body_of(one)
    assert formula in body_of(two)
    assert body_of(two).splitlines()[-2].startswith("Paper: ")


def test_a_method_of_ones_own_has_a_page() -> None:
    @tile_method(
        base="required",
        parameters=(Parameter("share", "float", "of |x|", maximum=1.0, example=0.25),),
    )
    def halfway(tile: Any, settings: Any) -> Any:
        """Halfway: the base, and a share of what is added to it.

        With ``t``, see :func:`mergesafe.merge`, :mod:`mergesafe.methods.definitions.ties` and
        https://example.org/a_b.

            out = base + t

        """
        return tile.base

    page = page_of(halfway)
    assert page.startswith("# halfway\n\n`halfway`: The base, and a share of what is added to it.")
    assert (
        "see `mergesafe.merge`, [ties](ties.md) and\n[example.org/a_b](https://example.org/a_b)."
        in page
    )
    assert "```text\nout = base + t\n```" in page
    assert r"| `share` | merge | required | numbers up to 1 | no | of \|x\| |" in page
    assert "  share: 0.25" in page
    assert as_dict(halfway)["recipe"] == recipe_of(halfway)


def test_a_method_without_a_docstring_has_that_of_its_module() -> None:
    @tile_method(base="required")
    def bare(tile: Any, settings: Any) -> Any:
        return tile.base

    assert page_of(bare).startswith("# bare\n\n`bare`: Made from the declarations, up")


def test_what_a_page_cannot_be_made_of_is_refused() -> None:
    example = Parameter("share", "float", "", maximum=1.0, example=3.0)
    halfway = tile_method(parameters=(example,))(lambda tile, settings: tile.inputs[0])
    with pytest.raises(
        MethodError, match=r"'share' with example = 3\.0, a float; expected a value"
    ):
        check_declaration(halfway, "own:halfway")

    class Undescribed(type(METHODS["linear"])):  # type: ignore[misc]
        use = None

    with pytest.raises(MethodError, match="declares use = None; expected a text"):
        check_declaration(Undescribed(), "own:Undescribed")
