"""Methods of one's own: functions of tiles and matrices, by their path in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import llama, read, recipe, same_bits, save, write_recipe

import mergesafe as ms
from mergesafe.errors import ArgumentError, MergesafeError, MethodError, RecipeError
from mergesafe.methods.authoring import tile_method
from mergesafe.methods.registry import get_method
from mergesafe.ops.methods import run
from mergesafe.ops.tiles import row_sum

from . import written

PLACE = "tests.engine.written"
SHAPES: Mapping[str, tuple[int, ...]] = {
    "wide": (1500, 2048), "odd": (700, 1531), "row": (1, 8191), "vector": (5001,), "one": (1,),
    "cube": (3, 5, 7), "none": (0, 4), "number": (),
}  # fmt: skip
MODELS = "base", "one", "two", "three"


def tensors(seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    types = torch.bfloat16, torch.bfloat16, torch.float32, torch.float16
    return [
        save(folder / name, tensors(i, dtype))
        for i, (name, dtype) in enumerate(zip(MODELS, types, strict=True))
    ]


def merged(
    name: str, models: list[Path], out: Path, base: Path | None = None, **options: Any
) -> dict[str, torch.Tensor]:
    each = {"weight": 0.4} if name == "summed" else ()
    content = recipe(f"{PLACE}:{name}", models, base, each=each)
    ms.merge(content | {"dtype": "float32"}, out, **options)
    return read(out)


def in_memory(name: str, models: list[Path], base: Path | None = None) -> dict[str, torch.Tensor]:
    loaded = [read(folder) for folder in models]
    first = None if base is None else read(base)
    more = {"weight": 0.4} if name == "summed" else {}
    return {
        tensor: run(
            getattr(written, name), [x[tensor] for x in loaded],
            None if first is None else first[tensor], name=tensor, out_dtype=torch.float32, **more,
        )
        for tensor in SHAPES
    }  # fmt: skip


@pytest.mark.parametrize("name", ["summed", "median", "unit_rows", "middle"])
def test_the_same_bits_streamed_resident_and_in_memory(
    name: str, models: list[Path], tmp_path: Path
) -> None:
    base = models[0] if getattr(written, name).inputs.base != "none" else None
    expected = in_memory(name, models[1:], base)
    for number, (memory, threads, backend) in enumerate(
        [("64MiB", 1, "auto"), ("256MiB", 3, "auto"), ("64MiB", 2, "reference")]
    ):
        out = tmp_path / str(number)
        made = merged(name, models[1:], out, base, memory=memory, threads=threads, backend=backend)
        for tensor in SHAPES:
            assert same_bits(made[tensor], expected[tensor]), (tensor, memory, threads)


def test_a_tile_function_is_the_fused_method(models: list[Path], tmp_path: Path) -> None:
    """Written in torch, task arithmetic gives the bits of the kernel."""
    made = merged("summed", models[1:], tmp_path / "out", models[0])
    content = recipe("task_arithmetic", models[1:], models[0], each={"weight": 0.4})
    ms.merge(content | {"dtype": "float32"}, tmp_path / "fused")
    for name, tensor in read(tmp_path / "fused").items():
        assert same_bits(made[name], tensor), name


def test_rows_are_whole_in_every_tile(models: list[Path]) -> None:
    content = recipe(f"{PLACE}:unit_rows", models[1:])
    report = ms.plan(content, memory="64MiB", threads=1)
    for name, columns in (("wide", 2048), ("odd", 1531)):
        layout = report.schedule.layouts[name]
        whole = layout.tile == report.plan.outputs[name][0].numel
        assert layout.row == (columns if name == "odd" else 0)
        assert whole or layout.tile % (4096 if layout.row else columns) == 0
        assert layout.row or layout.out_tile == layout.tile or layout.out_tile % columns == 0


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folders = [save(tmp_path / n, {"w": torch.ones(6, 1_000_001)}) for n in "ab"]
    with pytest.raises(ArgumentError) as raised:
        ms.plan(recipe(f"{PLACE}:unit_rows", folders), memory="16MiB")
    assert "tensor 'w' (unit: row)" in str(raised.value)
    assert "give at least" in str(raised.value)


def test_a_matrix_is_merged_at_once_or_refused(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (512, 700)
    folders = [
        save(tmp_path / n, {"w": torch.randn(shape, generator=generator)}) for n in ("a", "b", "c")
    ]
    content = recipe(f"{PLACE}:best_rank", folders[1:], folders[0], parameters={"scale": 0.5})
    with pytest.raises(ArgumentError, match=r"tensor 'w' \(unit: matrix\): the whole tensor"):
        ms.plan(content, memory="16MiB")
    report = ms.plan(content, memory="128MiB")
    assert report.schedule.layouts["w"].tile == 512 * 700
    ms.merge(content, tmp_path / "out", memory="128MiB")
    base, *experts = (read(folder)["w"] for folder in folders)
    total = sum((x - base for x in experts), torch.zeros(shape)).double()
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    expected = base + 0.5 * s[0] * torch.outer(u[:, 0], v[0])
    # LAPACK in float32 against float64: a few units in the last place of the largest value
    assert torch.allclose(read(tmp_path / "out")["w"].double(), expected, rtol=0, atol=2e-5)


def test_a_class_and_its_mistakes(models: list[Path], tmp_path: Path) -> None:
    made = merged("Halves", models[1:3], tmp_path / "out")
    one, two = (read(folder)["wide"].float() for folder in models[1:3])
    assert same_bits(made["wide"], 0.5 * one + 0.5 * two)
    with pytest.raises(MethodError, match=r"merge\(\) raised ZeroDivisionError: .*division"):
        merged("Dividing", models[1:3], tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("short", r"short\(\) returned the shape \[\d+\]"),
        ("double", r"double\(\) returned float64 on cpu; expected a float32 tensor"),
        ("nothing", r"nothing\(\) returned a NoneType"),
        ("undefined", r"undefined\(\) returned NaN, though all operands are finite"),
        ("undeclared", r"uses tile.deltas, but there is no separate base"),
        ("failing", r"failing\(\) raised KeyError: 'missing'"),
    ],
)
def test_what_a_function_must_not_do(
    name: str, said: str, models: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(MethodError, match=said) as raised:
        merged(name, models[1:], tmp_path / "out")
    assert f"merge method '{PLACE}:{name}' (" in str(raised.value)
    assert "tensor '" in str(raised.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(MethodError, match=said):
        run(getattr(written, name), [torch.ones(8)])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("not_there:x", "there is no module 'not_there'; install the package"),
        (f"{PLACE}:medain", "did you mean 'median'?"),
        (f"{PLACE}:not_declared", "expected a MergeMethod, or a function under @tile_method"),
        (f"{PLACE}:WEIGHT", "expected a MergeMethod"),
        (f"{PLACE}:BadInputs", "declares base = 'sometimes', a str; expected one of none,"),
        (f"{PLACE}:BadParameter", "the parameter 'k' with default = 0.5"),
        (f"{PLACE}:TwiceNamed", "the parameter 'k' twice"),
        ("a b:c", "expected a name, or 'package.module:name'"),
        ("antigravity:fly", "'antigravity' is no module that holds merge methods"),
        ("os.path:join", "'os.path' is no module that holds merge methods"),
        ("tests.__main__:x", "is no module that holds merge methods"),
        ("../evil:c", "expected a name, or 'package.module:name'"),
    ],
)
def test_a_method_that_cannot_be_had(
    name: str, said: str, models: list[Path], tmp_path: Path
) -> None:
    content = recipe(name, models[1:])
    path = write_recipe(tmp_path / "recipe.yml", content)
    with pytest.raises(RecipeError) as raised:
        ms.plan(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    with pytest.raises(MergesafeError):
        get_method(name)


def test_an_unfit_input_is_found_in_tiles(models: list[Path], tmp_path: Path) -> None:
    content = tensors(9, torch.float32)
    content["wide"][1400, 5] = float("inf")
    odd = save(tmp_path / "odd", content)
    with pytest.raises(MergesafeError, match=r"'wide'"):
        merged("unit_rows", [models[1], odd], tmp_path / "out")
    made = merged("unit_rows", [models[1], odd], tmp_path / "zero", on_nonfinite="zero")
    assert bool(made["wide"].isfinite().all())


@pytest.mark.parametrize("columns", [0, 1, 2, 3, 7, 8, 100, 1531])
def test_row_sums_are_those_of_exact_numbers(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    whole = torch.randint(-1000, 1000, (5, columns), generator=generator)
    assert torch.equal(row_sum(whole.float()), whole.sum(dim=1, keepdim=True).double())


def test_a_real_model_by_a_function(tmp_path: Path) -> None:
    """Every tensor of a model, with the plan that says how exact it is."""
    folders = [save(tmp_path / n, llama(i)) for i, n in enumerate("abc")]
    content = recipe(f"{PLACE}:median", folders[1:], folders[0])
    assert ms.plan(content).plan.tasks[0].method.exact == "bits"
    ms.merge(content, tmp_path / "out")
    base, *experts = (read(folder) for folder in folders)
    for name, tensor in read(tmp_path / "out").items():
        deltas = torch.stack([x[name].float() - base[name].float() for x in experts])
        assert same_bits(tensor, (base[name].float() + deltas.median(0).values).bfloat16())


def test_arguments_of_the_decorator() -> None:
    with pytest.raises(ValueError, match="column"):
        tile_method(unit="column")(written.not_declared)  # type: ignore[arg-type]
