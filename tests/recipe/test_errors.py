"""Every named error: the recipe that causes it, its line, and what the message says."""

from pathlib import Path
from textwrap import dedent

import pytest

from mergesafe.errors import RecipeError
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import Merge, MergeMethod, Parameter, Settings, TensorContext
from mergesafe.recipe import load_recipe
from mergesafe.recipe.method_names import MERGEKIT_METHODS
from mergesafe.recipe.nodes import MapNode, Reporter, ScalarNode
from mergesafe.recipe.parameters import ParameterReader

#: (name, recipe, line, parts of the message).
CASES: list[tuple[str, str, int | None, tuple[str, ...]]] = []


def case(name: str, recipe: str, line: int | None, *parts: str) -> None:
    CASES.append((name, dedent(recipe).lstrip("\n"), line, parts))


def parameters(name: str, line: int, body: str, *parts: str, method: str = "ties") -> None:
    """A case whose model 'a' has the parameters ``body``; they start on line 5.

    The recipe's own weight keeps it from missing where the case is about something else.
    """
    recipe = f"merge_method: {method}\nbase_model: base\nmodels:\n- model: a\n  parameters:\n"
    recipe = recipe.replace("parameters:\n", "parameters:  # line 5\n")
    recipe += "".join(f"    {row}\n" for row in body.split("\n"))
    CASES.append((name, recipe + "parameters: {weight: 1}\n", line, parts))


# --- the document -----------------------------------------------------------------------------
case("empty file", "", None, "the recipe is empty", "'merge_method' and 'models'")
case("only comments", "# nothing\n\n# here\n", None, "the recipe is empty")
case("null document", "---\n~\n", 2, "a recipe must be a mapping", "got nothing")
case("list at the top", "- a\n- b\n", 1, "a recipe must be a mapping", "got a list")
case("text at the top", "ties\n", 1, "a recipe must be a mapping", "got the text 'ties'")
case(
    "unclosed list", "merge_method: ties\nmodels: [a, b\ndtype: bfloat16\n", 3,
    "not valid YAML", "expected ',' or ']'", "the line reads 'dtype: bfloat16'", "began on line 2",
)  # fmt: skip
case("bad indent", "merge_method: ties\n  models: []\n", 2, "mapping values are not allowed here")
case("tab", "merge_method: ties\nmodels:\n\t- a\n", 3, "not valid YAML", "spaces, not tabs")
case("control character", "merge_method: ties\nname: a\x07b\n", 2, "the character '\\x07'")
case("impossible escape", 'name: "\\UFFFFFFFF"\n', None, "not valid YAML")
case("custom tag", "merge_method: !method ties\n", 1, "the tag '!method' is not allowed")
case("bare tag", "merge_method: ! ties\n", 1, "the tag", "is not allowed")
case("standard tag", "models:\n- !!str a\n", 2, "the tag 'tag:yaml.org,2002:str' is not allowed")
case(
    "python tag", "name: x\nmodels: !!python/object/apply:os.system [true]\n", 2,
    "the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
)  # fmt: skip
case("duplicate key", "merge_method: ties\ndtype: float16\ndtype: float32\n", 3,
     "duplicate key 'dtype' (first on line 2)")  # fmt: skip
case("duplicate merge key", "a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n", 4, "duplicate key '<<'")
case("merge of a scalar", "a:\n  <<: 3\n", 2, "'<<' merges a mapping", "got the number 3")
case("undefined alias", "name: x\nmodels: *absent\n", 2, "'*absent' has no anchor '&absent'")
case("recursive alias", "models: &m\n- *m\n", 2, "'*m' has no anchor '&m' that ends before it")
case("list as a key", "? [a, b]\n: c\n", 1, "a key must be text, got a list")
case("nesting", "x:\n  " + "[" * 40 + "]" * 40, 2, "nested deeper than 32 levels")
ONE = "merge_method: passthrough\nmodels: [{model: %s}]\n"
case("two documents without a name", ONE % "x" + "---\n" + ONE % "y", 4,
     "two documents have no 'name' (the first begins on line 1)")  # fmt: skip
case("two documents of one name", f"name: a\n{ONE % 'x'}---\nname: a\n{ONE % 'y'}", 5,
     "two documents have the name 'a' (the first begins on line 1)")  # fmt: skip
case("a document of itself", f"name: a\n{ONE % 'a'}---\n{ONE % 'a'}", 1,
     "the document 'a' is made of itself: 'a' needs 'a'", "write ./NAME")  # fmt: skip
case("the only document of itself", f"name: a\n{ONE % 'a'}", 1,
     "the document 'a' is made of itself: 'a' needs 'a'")  # fmt: skip
case("documents of each other",
     f"name: a\n{ONE % 'b'}---\nname: b\n{ONE % 'a+x'}---\n{ONE % 'b'}", 1,
     "the document 'a' is made of itself: 'a' needs 'b' needs 'a'")  # fmt: skip
case("many documents", "---\n".join(f"name: d{i}\n{ONE % 'x'}" for i in range(65)), 257,
     "65 documents, expected at most 64")  # fmt: skip
TWO = (
    "name: d%d\nmerge_method: linear\nparameters: {weight: 1}\nmodels: [{model: %s}, {model: %s}]\n"
)
case("documents that need the two before",
     "---\n".join(TWO % (i, f"d{i - 1}" if i else "x", f"d{i - 2}" if i > 1 else "y")
                  for i in range(20)),
     96, "the document 'd19' is made by 17,710 merges", "at most 1,000")  # fmt: skip
case("a misspelt document", f"name: first\n{ONE % 'x'}---\n{ONE % 'frist'}", 6,
     "'frist' is no document of the recipe, and nothing of that name is there",
     "mean 'first'?")  # fmt: skip
case("an adapter as an intermediate",
     "name: a\nmerge_method: core_space\nbase_model: b\n"
     "models: [{model: b+x, parameters: {weight: 1}}]\n"
     f"output: adapter\n---\n{ONE % 'a'}", 5,
     "the document 'a' has 'output: adapter'")  # fmt: skip
case("an intermediate in 8 bits", f"name: a\nout_dtype: fp8\n{ONE % 'x'}---\n{ONE % 'a'}", 1,
     "the document 'a' has 'out_dtype: float8_e4m3fn'")  # fmt: skip
case("an intermediate to tune", f"name: a\n{ONE % 'x'}tune: {{}}\n---\n{ONE % 'a'}", 4,
     "the document 'a' has a section 'tune'")  # fmt: skip

# --- keys ---------------------------------------------------------------------------------------
MODELS = "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n"
case("unknown key", MODELS + "d_type: float16\n", 4, "unknown key 'd_type' (did you mean 'dtype'?)")
case("number as a key", MODELS + "3: x\n", 4, "unknown key '3' (known: base_model, chat_template")
case("control character in a key", MODELS + '"a\\eb": x\n', 4, "unknown key 'a\\x1bb'")
case("parameter beside models", MODELS + "normalize: false\n", 4,
     "unknown key 'normalize'; it is a parameter of linear: move it under 'parameters'",
)  # fmt: skip
case("parameter beside model", "merge_method: linear\nmodels:\n- model: a\n  weight: 1\n", 4,
     "unknown key 'weight' in an entry of 'models'", "move it under 'parameters'")  # fmt: skip
case("unknown key of an entry", "merge_method: passthrough\nmodels:\n- modle: a\n", 3,
     "unknown key 'modle' in an entry of 'models' (did you mean 'model'?)")  # fmt: skip
case("modules and models", MODELS + "modules: {text: {models: []}}\n", 4,
     "'modules' and 'models' are both given")  # fmt: skip
TWO = "merge_method: passthrough\nmodules:\n  text: {models: [{model: a}]}\n"
case("a module of models and slices", TWO + "  vision: {models: [{model: b}], slices: []}\n", 4,
     "the module 'vision' has 'models' and 'slices'; it needs one of them")  # fmt: skip
case("too many models in one module", TWO + "  vision: {models: [{model: a}, {model: b}]}\n", 4,
     "passthrough merges exactly 1 model, got 2: a, b")  # fmt: skip
case("a module without models", "merge_method: passthrough\nmodules:\n  text: 3\n", 3,
     "the module 'text' must be a mapping with 'models' or 'slices', got the number 3")  # fmt: skip
case("an unknown key of a module", TWO.replace("models", "model"), 3,
     "unknown key 'model' in the module 'text' (did you mean 'models'?)")  # fmt: skip
case("foreign tokenizer", MODELS + "tokenizer_source: c\n", 4,
     "must be base, union or one of the recipe's models, got 'c'", "known: a")  # fmt: skip
case("old spelling of a foreign tokenizer", MODELS + "tokenizer_source: model:c\n", 4,
     "one of the recipe's models, got 'c'")  # fmt: skip
case("both tokenizer keys", MODELS + "tokenizer_source: base\ntokenizer: {source: base}\n", 5,
     "'tokenizer_source' and 'tokenizer' are both given")  # fmt: skip
case(
    "tokenizer as a list",
    MODELS + "tokenizer: [a]\n",
    4,
    "must be a mapping (key: value), got a list",
)
for written, parts in (
    ("sorce: base", ("'tokenizer' has the unknown key 'sorce'", "did you mean 'source'")),
    ("tokens: [a]", ("'tokens' of 'tokenizer' must be a mapping from tokens",)),
    ("tokens: {x: {source: c}}", ("'source' of the token 'x' must be one of the recipe's models",)),
    ("tokens: {x: {force: true}}", ("the token 'x' has 'force', but no 'source'",)),
    (
        "tokens: {x: {source: {kind: one}}}",
        ("'one', expected one of zero, model_token",),
    ),
    ("tokens: {x: {source: {kind: zero, model: a}}}", ("unknown key 'model'",)),
    ("tokens: {x: {source: {kind: model_token, token: y}}}", ("has no 'model'",)),
    ("tokens: {x: {source: {kind: model_token, model: a}}}", ("either 'token' or 'token_id'",)),
    ("tokens: {x: {source: {kind: model_token, model: a, token_id: -1}}}", ("at least 0",)),
    ("pad_to_multiple_of: 0", ("'pad_to_multiple_of' of 'tokenizer'", "at least 1")),
):
    case(f"tokenizer {written}", f"{MODELS}tokenizer:\n  {written}\n", 5, *parts)
case("method missing", "models:\n- model: a\n", 1, "'merge_method' is missing; one of ")
case("method null", "models: [model: a]\nmerge_method:\n\n# x\n", 2, "'merge_method' is missing")
case("method unknown", "models: [model: a]\nmerge_method: tie\n", 2,
     "unknown merge method 'tie' (did you mean 'ties'?)")  # fmt: skip
case("method as a list", "merge_method: [ties]\nmodels: [model: a]\n", 1,
     "'merge_method' must be text, got a list")  # fmt: skip
for method in sorted(MERGEKIT_METHODS - set(METHODS)):
    case(f"unsupported method {method}", f"models: [model: a]\nmerge_method: {method}\n", 2,
         f"merge method '{method}' is known to mergekit, not supported by this version; supported",
         "ties")  # fmt: skip
case("long text", MODELS + f"dtype: {'x' * 500}\n", 4, f"'{'x' * 77}...' is unknown")
case("dtype unknown", MODELS + "dtype: bfloat61\n", 4,
     "'dtype': the type 'bfloat61' is unknown (did you mean 'bfloat16'?)")  # fmt: skip
case("dtype unsupported", MODELS + "out_dtype: float64\n", 4,
     "'out_dtype': the type 'float64' is known to mergekit, not supported")  # fmt: skip
case("dtype number", MODELS + "dtype: 16\n", 4, "'dtype' must be text, got the number 16")
case("name boolean", MODELS + "name: no\n", 4, "'name' must be text, got the boolean no",
     'put it in quotes: "no"')  # fmt: skip
case("name with line break", MODELS + "name: |\n  a\n  b\n", 4, "line breaks: 'a\\nb\\n'")

# --- models ---------------------------------------------------------------------------------------
case("models missing", "name: x\nmerge_method: ties\nbase_model: b\n", 1, "'models' is missing")
case("models null", "merge_method: ties\nmodels:\n", 2, "'models' is missing")
case("models empty", "merge_method: ties\nbase_model: b\nmodels: []\n", 3, "'models' is empty")
case("models a mapping", "merge_method: ties\nmodels:\n  a: 1\n", 3,
     "'models' must be a list, got a mapping")  # fmt: skip
case("entry is a path", "merge_method: linear\nmodels:\n- a\n", 3,
     "must be a mapping such as {model: PATH}, got the text 'a'")  # fmt: skip
case("entry without a model", "merge_method: linear\nmodels:\n- parameters: {weight: 1}\n", 3,
     "an entry of 'models' has no 'model'")  # fmt: skip
case("model null", "merge_method: linear\nmodels:\n- model:\n  parameters:\n", 3, "has no 'model'")
case("model a number", "merge_method: linear\nmodels:\n- model: 7\n", 3, 'in quotes: "7"')
case("model empty", 'merge_method: linear\nmodels:\n- model: ""\n', 3, "'model' is empty")
case("two adapters", "merge_method: linear\nmodels:\n- model: a+b+c\n", 3,
     "'model': expected PATH or PATH+ADAPTER, got 'a+b+c'")  # fmt: skip
case("no adapter", "merge_method: linear\nmodels:\n- model: a+\n", 3, "PATH+ADAPTER, got 'a+'")
case("model key", "merge_method: linear\nmodels:\n- model:\n    model: a\n    adapter: b\n", 5,
     "'model' has the unknown key 'adapter' (known: lora, model)")  # fmt: skip
case("lora only", "merge_method: linear\nmodels:\n- model:\n    lora: b\n", 4,
     "'model', 'model' is missing")  # fmt: skip
case("path missing", "merge_method: linear\nmodels:\n- model:\n    model: {}\n", 4,
     "'model', 'model', 'path' is missing")  # fmt: skip
case("revision", "merge_method: linear\nmodels:\n- model:\n    model: {path: a, revision: [b]}\n",
     4, "'model', 'model', 'revision' must be text")  # fmt: skip
case("model twice",
     "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- model: ./a/\n", 4,
     "model './a/' is listed twice (first on line 3)", "larger weight")  # fmt: skip
case("base missing", "merge_method: ties\nmodels:\n- model: a\n", 1, "ties needs a 'base_model'")
case("base missing for slerp",
     "models: [model: a, model: b]\nmerge_method: slerp\nparameters: {t: 0.5}\n", 2,
     "slerp needs a 'base_model'")  # fmt: skip
case("base not listed",
     "merge_method: linear\nbase_model: c\nmodels: [model: a, model: b]\n"
     "parameters: {weight: 1}\n", 2,
     "linear has no separate base: list base_model 'c' under 'models'", "or remove")  # fmt: skip
case("only the base", "merge_method: ties\nbase_model: a\nmodels:\n- model: a\n", 3,
     "ties merges at least 1 expert besides the base, got 0: none")  # fmt: skip
case("slerp of three",
     "merge_method: slerp\nbase_model: c\nmodels: [model: a, model: b]\nparameters: {t: 0}\n", 3,
     "slerp merges exactly 2 models, the base included, got 3: c, a, b")  # fmt: skip
case("slerp of one",
     "merge_method: slerp\nbase_model: a\nmodels: [model: a]\nparameters: {t: 0}\n", 3,
     "slerp merges exactly 2 models, the base included, got 1: a")  # fmt: skip
case("passthrough of two", "merge_method: passthrough\nmodels: [model: a, model: b]\n", 2,
     "passthrough merges exactly 1 model, got 2: a, b")  # fmt: skip

# --- parameters -----------------------------------------------------------------------------------
parameters("misspelt", 7, "weight: 1\ndensty: 0.5",
           "ties has no parameter 'densty' (did you mean 'density'?)")  # fmt: skip
parameters("of another method", 6, "density: 0.5", "tsv has no parameter 'density' (taken by ",
           method="tsv")  # fmt: skip
parameters("of an own method", 6, "ridge: 0.5", "ties has no parameter 'ridge' (taken by ")
parameters("global under a model", 6, "alpha: 0.5",
           "'alpha' holds for the whole merge", "move it from model 'a'", method="tsv")  # fmt: skip
case("required under a model",
     "merge_method: slerp\nbase_model: a\nmodels:\n- model: b\n  parameters: {t: 0.5}\n", 5,
     "'t' holds for the whole merge", "move it from model 'b'")  # fmt: skip
parameters("density above", 6, "density: 1.2",
           "'density' of model 'a' is 1.2, outside the allowed range [0, 1]")  # fmt: skip
parameters("density below", 6, "density: -1e-9", "is -1e-9, outside the allowed range [0, 1]")
parameters("density above in a gradient", 8, "density:\n- 0.5\n- 1.5", "is 1.5, outside")
parameters("density above in a filter", 8, "density:\n- value: 1\n- value: [0, 2]", "is 2, outside")
for word in (".nan", ".inf", "-.Inf", "nan", "1e999"):
    parameters(f"not finite {word}", 6, f"weight: {word}", f"must be finite, got {word}")
parameters("boolean for a number", 6, "weight: true",
           "'weight' of model 'a' must be a number, got the boolean true")  # fmt: skip
parameters("yes for a number", 6, "weight: [0, yes]", "a number, got the boolean yes")
parameters("text for a number", 6, "weight: high", "a number, got the text 'high'")
parameters("quoted text for a number", 6, 'weight: "0.5x"', "got the text '0.5x'")
parameters("octal", 6, "weight: 010", "got the number 010; YAML versions disagree")
parameters("sexagesimal", 6, "weight: 1:30", "a number, got the text '1:30'")
parameters("null", 6, "weight:\ndensity: 1", "must be a number, got nothing")
parameters("null in a list", 8, "weight:\n- 1\n-\n# why\n\n- 2", "must be a number, got nothing")
parameters("empty list", 6, "weight: []", "is an empty list")
parameters("list in a list", 6, "weight: [[1, 2], 3]", "must be a number, got a list")
parameters("numbers and words", 6, "weight: [0.5, low]", "must be a number, got the text 'low'")
parameters("filters and numbers", 7, "weight:\n- 0.5\n- {filter: mlp, value: 1}",
           "mixes {filter, value} entries with the number 0.5", "{value: ...}, last")  # fmt: skip
parameters("filter key", 7, "weight:\n- {filtre: mlp, value: 1}",
           "has the unknown key 'filtre' (did you mean 'filter'?)")  # fmt: skip
parameters("filter and only", 7, "weight:\n- {filter: mlp, only: [mlp], value: 1}",
           "has both 'filter' and 'only'")  # fmt: skip
parameters("only nothing", 7, "weight:\n- {only: [], value: 1}", "'only' of 'weight'", "is empty")
parameters("filter without a value", 7, "weight:\n- {filter: mlp}", "has no 'value'")
parameters("filter in a filter", 7, "weight:\n- {value: [{value: 1}]}", "a number, got a mapping")
parameters("filter a number", 7, "weight:\n- {filter: 3, value: 1}", "the filter of 'weight'",
           "must be text, got the number 3")  # fmt: skip
parameters("filter empty", 7, "weight:\n- {filter: '', value: 1}", "'weight' of model 'a' is empty")
parameters("a list", 6, "- weight", "'parameters' of model 'a' must be a mapping", "got a list")


def shared(name: str, body: str, *parts: str, method: str = "dare_ties") -> None:
    weight = "" if method == "slerp" else ", parameters: {weight: 1}"
    head = f"merge_method: {method}\nbase_model: b\nmodels: [{{model: a{weight}}}]\n"
    case(f"shared {name}", head + f"parameters:\n  {body}\n", 5, *parts)


shared("2 for a boolean", "normalize: 2", "must be true or false, got the number 2")
shared("text for a boolean", "normalize: maybe", "must be true or false, got the text 'maybe'")
shared("choice misspelt", "rescale: L2",
       "'rescale' must be one of true, false, l1, l2, linf, inverse_density, none")  # fmt: skip
shared("choice nearest", "rescale: inverse-density", "(did you mean 'inverse_density'?)")
shared("choice for elect", "elect: max", "'elect' must be sum or count, got the text 'max'")
shared("boolean for a choice", "elect: true", "must be sum or count, got the boolean true")
shared("unknown", "lamda: 1", "dare_ties has no parameter 'lamda' (did you mean 'lambda'?)")
shared("t above", "t: 1.5", "'t' is 1.5, outside the allowed range [0, 1]", method="slerp")


@pytest.mark.parametrize(
    ("recipe", "line", "parts"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_error(recipe: str, line: int | None, parts: tuple[str, ...], tmp_path: Path):
    path = tmp_path / "recipe.yml"
    path.write_text(recipe)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    where = f"{path}: " if line is None else f"{path}:{line}: "
    assert message.startswith(where), message
    for part in parts:
        assert part in message
    assert message.count("\n") == 0
    assert caught.value.line == line
    assert caught.value.source == path


def test_case_names_are_unique():
    assert len({c[0] for c in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("low", "high", "text", "expected"),
    [
        (0.0, None, "-1", "'x' is -1, outside the allowed range: at least 0"),
        (None, 8.0, "9", "'x' is 9, outside the allowed range: at most 8"),
    ],
)
def test_one_sided_range(low: float | None, high: float | None, text: str, expected: str):
    class Bounded(MergeMethod):
        name = "bounded"
        parameters = (Parameter("x", "float", "bounded", minimum=low, maximum=high),)

        def merge(self, tensor: TensorContext, settings: Settings) -> Merge:
            raise NotImplementedError

    node = MapNode({"x": (None, ScalarNode(text, quoted=False))})
    report = Reporter(None)
    ParameterReader(Bounded(), report).read(node)
    assert [str(error) for error in report.errors] == [f"recipe: {expected}"]


# --- the file -------------------------------------------------------------------------------------


def refused(path: Path | str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return str(caught.value)


def test_file_missing(tmp_path: Path):
    path = tmp_path / "absent.yml"
    assert refused(path) == f"{path}: the recipe cannot be read: no such file or directory"


def test_yaml_text_instead_of_a_path():
    assert "expected the path of a YAML file or a mapping" in refused(
        "merge_method: ties\nmodels: []\n"
    )


def test_null_byte_in_the_path():
    assert "expected the path of a YAML file or a mapping" in refused("a\0b")


def test_folder(tmp_path: Path):
    assert refused(tmp_path) == f"{tmp_path}: is a folder; expected the YAML file of a recipe"


def test_unreadable_file(tmp_path: Path):
    path = tmp_path / "loop.yml"
    path.symlink_to(path)
    assert refused(path).startswith(f"{path}: the recipe cannot be read: ")


def test_not_utf8(tmp_path: Path):
    path = tmp_path / "latin1.yml"
    path.write_bytes(b"merge_method: ties\nname: caf\xe9\n")
    assert refused(path) == f"{path}:2: not UTF-8 text (byte 0xe9); save the recipe as UTF-8"


def test_too_large(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\0" * 1_000_001)
    assert refused(path).startswith(f"{path}: larger than 1,000,000 bytes")
