"""YAML forms: lines, anchors, merge keys, bounds on hostile text, and no other exception ever."""

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mergesafe.errors import RecipeError
from mergesafe.recipe import load_recipe
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.nodes import ListNode, MapNode, Node, Reporter, ScalarNode


def parse(text: str) -> Node:
    return parse_yaml(text, Reporter(None))


def plain(node: Node) -> object:
    """The tree as (line, content), so that a test reads like the document."""
    if isinstance(node, MapNode):
        return {key: (line, plain(value)) for key, line, value in node}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return (node.line, node.text)


def test_every_key_and_value_has_its_line():
    text = "# comment\na:\n  b: 1\n\n  c:\n  - x\n  -  # null\n  # here\n\n  - 'y'\n"
    text += "d: {e: [2,\n  3]}\n"
    assert plain(parse(text)) == {
        "a": (2, {"b": (3, (3, "1")), "c": (5, [(6, "x"), (7, ""), (10, "y")])}),
        "d": (11, {"e": (11, [(11, "2"), (12, "3")])}),
    }


@pytest.mark.parametrize("text", ["a:\n", "a:\n\n\n", "a: # why\n# more\nb: 1\n", "a:", "{a: }"])
def test_an_empty_value_is_on_the_line_of_its_key(text: str):
    root = parse(text)
    assert isinstance(root, MapNode)
    assert root.entries["a"] == (1, ScalarNode("", quoted=False, line=1))


def test_crlf_and_byte_order_mark(tmp_path: Path):
    path = tmp_path / "windows.yml"
    path.write_bytes(b"\xef\xbb\xbfmerge_method: linear\r\nmodels:\r\n- modle: a\r\n")
    with pytest.raises(RecipeError, match=r"windows.yml:3: unknown key 'modle'"):
        load_recipe(path)


def test_quotes_are_remembered():
    node = parse("- 1e-3\n- '1e-3'\n- \"1e-3\"\n- |-\n  1e-3\n")
    assert isinstance(node, ListNode)
    assert [(i.text, i.quoted) for i in node.items if isinstance(i, ScalarNode)] == [
        ("1e-3", False), ("1e-3", True), ("1e-3", True), ("1e-3", True),
    ]  # fmt: skip


def test_aliases_and_merge_keys():
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: *a\nd:\n  <<: [*a, *b]\n  x: 9\n"
    root = parse(text)
    assert isinstance(root, MapNode)
    c, d = root.get("c"), root.get("d")
    assert c is root.get("a")
    assert d is not None
    assert plain(d) == {"x": (6, (6, "9")), "y": (1, (1, "2")), "z": (2, (2, "4"))}


def test_quoted_merge_key_is_an_ordinary_key():
    assert plain(parse('{"<<": x}')) == {"<<": (1, (1, "x"))}


def bomb(levels: int) -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(30), "recipe:5: more than 60000 values after expanding aliases"),
        ("a: &a {" + "b: 1, " * 9 + "}", "duplicate key 'b'"),
        ("- " * 50_000 + "x", "recipe:1: nested deeper than 32 levels"),
        ("[" * 50_000, "recipe:1: nested deeper than 32 levels"),
        ("{a: " * 50_000, "recipe:1: nested deeper than 32 levels"),
        ("? " * 50_000, "recipe:1: nested deeper than 32 levels"),
        ("- x\n" * 60_001, "recipe:60000: more than 60000 values"),
        ("a: 1\nb: !" + "x" * 990_000 + " y", "recipe:2: '!xxx"),
        ("a: !<" + "%41" * 300_000 + "> y", "recipe:1: '!<%41%41"),
    ],
    ids=["aliases", "keys", "lists", "flow", "maps", "complex", "items", "tag", "escapes"],
)
def test_hostile_text_is_refused_in_bounded_time(text: str, message: str):
    start = time.process_time()
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert time.process_time() - start < 5.0


def test_merge_keys_cannot_multiply():
    """Each merge counts the whole mapping that it copies."""
    text = "a: &a\n" + "".join(f"  k{i}: 1\n" for i in range(2_000))
    text += "b:\n" + "- <<: *a\n" * 100
    with pytest.raises(RecipeError, match="more than 60000 values after expanding aliases"):
        parse(text)


ALPHABET = st.sampled_from(list("ab:-[]{}&*!<>|#'\"\\,?%~ \n\r\t01.\x85\u2028\ufeffé"))


@settings(deadline=None)
@given(st.text(ALPHABET, max_size=60) | st.text(max_size=60))
@example('a: "\\ud800"')
@example('"\\UFFFFFFFF": 1')
@example("%YAML 1.1\n---\na: 1")
@example("%YAML 3.0\n---\na: 1")
@example("%TAG ! !\n---\n!a b")
@example("a: &x\nb: *x\n")
def test_any_text_parses_or_is_refused(text: str):
    message = ""
    try:
        parse(text)
    except RecipeError as error:
        message = str(error)
    assert message.isprintable()


LINES = st.sampled_from(
    [
        "merge_method: ties", "merge_method: linear", "base_model: b", "models:", "- model: a",
        "- model: b+c", "- {model: {model: d}}", "  parameters:", "    weight: 1", "    weight:",
        "    - filter: x", "      value: [1, 2]", "    density: 0.5", "parameters:", "  lambda: 1",
        "  normalize: yes", "dtype: float16", "tokenizer_source: base", "name: x", "  <<: *a",
        "x: &a", "models: []", "models: &a", "- *a",
    ]
)  # fmt: skip


@settings(deadline=None)  # reads a file
@given(st.lists(LINES, max_size=14))
def test_any_recipe_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, lines: list[str]):
    path = tmp_path_factory.getbasetemp() / "fuzz.yml"
    path.write_text("\n".join(lines))
    message = str(path)
    try:
        load_recipe(path)
    except RecipeError as error:
        message = str(error)
    assert message.startswith(str(path))
