"""The predicted time: its arithmetic on given rates, and the samples that rates come from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from tiny import FAMILY, llama, recipe, save, save_adapter

import mergesafe
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo, read_header
from mergesafe.engine.estimate import probe as sample
from mergesafe.engine.estimate.calibrate import calibrate, typical, window
from mergesafe.engine.estimate.probe import SampleReader, covered
from mergesafe.engine.estimate.seconds import Rate, Rates, TensorClass, predict, tensor_classes

FAST = Rate(read=100.0, compute=0.01, write=50.0)
SLOW = Rate(read=10.0, compute=0.1, write=5.0)


def classes() -> list[TensorClass]:
    resident = TensorClass("resident", 1, 2, 2, elements=300, bytes_read=1000, bytes_out=500)
    streamed = TensorClass("streamed", 3, 1, 1, elements=100, bytes_read=600, bytes_out=200)
    return [resident, streamed]


def test_processors_add_up() -> None:
    rates = Rates({"resident": FAST, "streamed": SLOW}, piece=0.5, cached=1.0, disk=None)
    estimate = predict(classes(), 1200, rates)
    assert estimate is not None
    assert estimate.read_s == 1000 / 100 + 600 / 10
    assert estimate.compute_s == 300 * 0.01 + 100 * 0.1
    assert estimate.write_s == 500 / 50 + 200 / 5
    assert estimate.overhead_s == 3 * 0.5
    assert estimate.disk_s == 0
    assert estimate.seconds == estimate.processor_s == 70 + 13 + 50 + 1.5
    assert estimate.limit == "read"


@pytest.mark.parametrize(
    ("disk", "seconds", "limit"), [(4.0, 225.0, "disk"), (100.0, 134.5, "read")]
)
def test_the_disk_works_beside_the_processors(disk: float, seconds: float, limit: str) -> None:
    rates = Rates({"resident": FAST, "streamed": SLOW}, piece=0.5, cached=0.25, disk=disk)
    estimate = predict(classes(), 1200, rates)
    assert estimate is not None
    assert estimate.disk_s == 900 / disk  # what is read again is in the page cache by then
    assert (estimate.seconds, estimate.limit) == (seconds, limit)


@pytest.mark.parametrize(
    ("rate", "piece", "limit"),
    [
        (Rate(1e9, 1.0, 1e9), 0.0, "compute"),
        (Rate(1e9, 0.0, 1.0), 0.0, "write"),
        (Rate(1e9, 0.0, 1e9), 9.0, "overhead"),
    ],
)
def test_limit(rate: Rate, piece: float, limit: str) -> None:
    estimate = predict(classes(), 1200, Rates({"resident": rate}, piece, 1.0, None))
    assert estimate is not None
    assert estimate.limit == limit


def test_what_was_not_measured_counts_as_the_slowest() -> None:
    copied = TensorClass("copied", 1, 1, 1, elements=10, bytes_read=100, bytes_out=50)
    rates = Rates({"resident": FAST, "once": SLOW}, piece=0.0, cached=0.0, disk=None)
    estimate = predict([copied], 100, rates)
    assert estimate is not None
    assert (estimate.read_s, estimate.compute_s, estimate.write_s) == (10.0, 1.0, 10.0)
    assert estimate.disk_s == 100 / SLOW.read
    assert predict([copied], 100, Rates({}, 0.0, 1.0, None)) is None


def test_classes(tmp_path: Path) -> None:
    values = torch.zeros(3 << 20, dtype=torch.bfloat16)
    tensors = {"big": values, "small": values[:10].clone(), "ids": torch.arange(5)}
    models = [save(tmp_path / f"m{i}", tensors) for i in range(3)]
    content = recipe("ties", models[1:], models[0], each={"weight": 1, "density": 0.5})
    report = mergesafe.plan(content, memory="16MiB", threads=2)
    streamed, copied, resident = tensor_classes(report.plan, report.schedule)
    assert (streamed.kind, streamed.tensors, streamed.elements) == ("streamed", 1, 3 << 20)
    assert streamed.passes == 2  # selection in one pass after a sample, then the combination
    assert streamed.bytes_read == report.schedule.bytes_read - 3 * 40 - 3 * 20
    assert streamed.bytes_read > 2 * 3 * values.nbytes
    assert (copied.kind, copied.bytes_read, copied.bytes_out) == ("copied", 3 * 40, 40)
    assert (resident.kind, resident.passes, resident.bytes_read) == ("resident", 1, 3 * 20)
    content = recipe("linear", models, each={"weight": 1})
    report = mergesafe.plan(content, memory="16MiB", threads=2)
    once = tensor_classes(report.plan, report.schedule)[0]
    assert (once.kind, once.passes, once.tensors) == ("once", 1, 2)
    assert once.pieces > 2
    assert sum(each.bytes_read for each in tensor_classes(report.plan, report.schedule)) == (
        report.schedule.bytes_read
    )


def test_covered() -> None:
    assert covered([]) == 0
    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75)]) == 4.0


def test_typical_is_the_tensor_of_the_middle_element(family: Family) -> None:
    tasks = mergesafe.plan(recipe("linear", family.experts, each={"weight": 1})).plan.tasks
    ordered = sorted(task.numel for task in tasks)
    half, seen = sum(ordered) / 2, 0
    for numel in ordered:
        seen += numel
        if seen > half:
            break
    assert typical(tasks).numel == numel


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_window_lies_in_its_tensor(place: float, family: Family, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", llama(0), 1)
    models = [f"{family.base}+{adapter}", family.experts[0]]
    seen = set()
    for task in mergesafe.plan(recipe("linear", models, each={"weight": 1})).plan.tasks:
        part = window(task, 100, place)
        adapted = any(source.view.lora for source in task.sources)
        seen.add((adapted, part.numel < task.numel))
        assert part.numel <= max(100, task.context.shape[-1] if adapted else 0)
        assert part.numel % (task.context.shape[-1] if adapted else 1) == 0
        for cut, whole in zip(part.sources, task.sources, strict=True):
            assert cut.view.numel == part.numel
            ((info, begin, nbytes),) = cut.view.ranges(0, part.numel)
            tensor = whole.view.info
            assert tensor.offset <= info.offset + begin
            assert info.offset + begin + nbytes <= tensor.offset + tensor.nbytes
    assert {(True, True), (False, True), (False, False)} <= seen


# --- samples -----------------------------------------------------------------------------------


class Disk:
    """A clock that reading moves: 1 MiB a second, and nothing is in the page cache."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        read = Reader.read_into

        def slow(reader: Reader, info: TensorInfo, begin: int, buffer: memoryview) -> None:
            self.now += buffer.nbytes / (1 << 20)
            read(reader, info, begin, buffer)

        patch.setattr(Reader, "read_into", slow)
        patch.setattr(SampleReader, "read_cached", lambda *_: 0)
        patch.setattr(sample.time, "perf_counter", lambda: self.now)


@pytest.fixture
def info(tmp_path: Path) -> TensorInfo:
    folder = save(tmp_path / "m", {"w": torch.zeros(2 << 20, dtype=torch.bfloat16)})
    return read_header(folder / "model.safetensors")[0]["w"]


def test_what_the_disk_gave(info: TensorInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch)
    with SampleReader() as reader:
        assert reader.cached_share([info]) == 0
        assert reader.disk_rate() is None
        assert reader.fetch(info)
        assert reader.disk_rate() == 1 << 20
        reader.read_into(info, 0, memoryview(bytearray(1 << 20)))
        assert reader.take_copied() == (1 << 20, 1.0)
        assert reader.take_copied() == (0, 0.0)


def test_the_deadline_stops_a_slow_disk(info: TensorInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    with SampleReader() as reader:
        reader.deadline = 1.5
        assert not reader.fetch(info)
        assert (disk.now, reader.disk_rate()) == (2.0, 1 << 20)
        assert not reader.fetch(info)
        assert disk.now == 2.0


def test_page_cache(info: TensorInfo) -> None:
    with SampleReader() as reader:
        assert reader.fetch(info)
        if reader.read_cached(info, 0, memoryview(bytearray(4096))) == 0:
            pytest.skip("this file system does not tell what is in the page cache")
        assert reader.cached_share([info]) == 1
        assert reader.fetch(info)
        assert reader.disk_rate() is None


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("memory", ["16MiB", "1GiB"])
@pytest.mark.parametrize("method", ["linear", "slerp", *FAMILY])
def test_every_method_is_measured(
    method: str, memory: str, slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk is too slow to wait for, and kernels run on whatever is there."""
    if slow:
        monkeypatch.setattr(SampleReader, "fetch", lambda *_: False)
    values = torch.randn(2 << 20).bfloat16()
    models = [save(tmp_path / f"m{i}", {"w": values * (i + 1)}) for i in range(3)]
    each: dict[str, Any] = {"weight": 0.5, **FAMILY.get(method, {})}
    if method == "slerp":
        content = recipe(method, models[:2], models[0], parameters={"t": 0.5})
    elif method == "linear":
        content = recipe(method, models, each=each)
    else:
        content = recipe(method, models[1:], models[0], each=each)
    report = mergesafe.plan(content, memory=memory, threads=2)
    started = time.perf_counter()
    rates = calibrate(report.plan, report.schedule, report.options)
    assert time.perf_counter() - started < 5
    (rate,) = rates.kinds.values()
    assert 0 < rate.compute < 1e-6  # a microsecond an element would be absurd
    assert rate.write > 1e6
    assert rate.read > 1e6
    assert 0 < rates.piece < 0.1


def test_what_only_the_first_piece_waits_for_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import of torch, which took ten times as long as a window that was measured."""
    from mergesafe.methods.definitions import resta

    inner, calls = resta.restored, [0]

    def restored(tile: Any, settings: Any) -> Any:
        calls[0] += 1
        time.sleep(2.0 * (calls[0] == 1))
        return inner(tile, settings)

    monkeypatch.setattr(resta, "restored", restored)
    models = [save(tmp_path / f"m{i}", {"w": torch.randn(2 << 20)}) for i in range(3)]
    places = dict(zip(("aligned", "unaligned"), map(str, models), strict=False))
    content = recipe("resta", models[2:], parameters={"density": 0.5}) | {"references": places}
    report = mergesafe.plan(content, threads=1)
    rates = calibrate(report.plan, report.schedule, report.options)
    assert calls[0] > 1
    assert all(rate.compute < 2.0 / (4 << 20) for rate in rates.kinds.values())


def test_tiny_tensors_cost_what_their_number_does(family: Family) -> None:
    content = recipe("ties", family.experts, family.base, each={"weight": 1, "density": 0.5})
    report = mergesafe.plan(content)
    found = tensor_classes(report.plan, report.schedule)
    rates = calibrate(report.plan, report.schedule, report.options)
    estimate = predict(found, report.plan.bytes_in, rates)
    assert estimate is not None
    assert (estimate.read_s, estimate.compute_s, estimate.write_s) == (0, 0, 0)
    assert estimate.overhead_s == len(llama(0)) * rates.piece > 0


def test_operations_add_up_and_are_divided_by_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    from mergesafe.engine.estimate import matrices
    from mergesafe.methods.operations import Operations, eigh, product, svd, wide_product

    assert product(2, 3, 4) + product(1, 1, 1) == Operations(product=50.0)
    assert wide_product(2, 3, 4) * 2 == Operations(wide_product=96.0)
    assert svd(8, 2) == svd(2, 8) == Operations(svd=(12.5 * 8 + 16 * 2) * 4)
    assert eigh(10) == Operations(eigh=1000.0)
    # beyond a cache, what a decomposition reads from memory counts, too
    assert svd(4096, 4096).moved == pytest.approx(8 / 3 * 4096**3)
    monkeypatch.setitem(matrices._SAMPLES, "product", lambda torch: (6.0, lambda: None))
    monkeypatch.setattr(matrices, "_rate", lambda amount, work: amount)
    assert matrices.measured(["product"], lanes=3, threads=1) == {"product": 18.0}


def test_every_kind_of_operations_is_measured() -> None:
    from dataclasses import asdict

    from mergesafe.engine.estimate import matrices
    from mergesafe.methods.operations import Operations

    assert set(matrices._SAMPLES) == set(asdict(Operations()))
    # nothing that computes is slower than a thousand operations a second
    assert min(matrices.measured(matrices._SAMPLES, lanes=1, threads=1).values()) > 1e3


def test_matrices_count_as_computing() -> None:
    whole = TensorClass("whole", 1, 2, 2, elements=300, bytes_read=1000, bytes_out=500)
    rates = Rates({"whole": FAST}, piece=0.5, cached=1.0, disk=None, matrices=70.0)
    estimate = predict([whole], 1200, rates)
    assert estimate is not None
    assert (estimate.compute_s, estimate.limit) == (300 * 0.01 + 70.0, "compute")


def test_a_merge_by_decompositions_takes_about_as_long_as_it_says(tmp_path: Path) -> None:
    """Other programs take their share of the processors; a wrong unit would be off by far more."""
    shape, names = (384, 384), [f"model.layers.{i}.mlp.up_proj.weight" for i in range(4)]
    draw = torch.Generator().manual_seed(1)
    folders = [
        save(tmp_path / n, {name: torch.randn(shape, generator=draw) for name in names})
        for n in "abcd"
    ]
    content = recipe("tsv", folders[1:], folders[0])
    report = mergesafe.plan(content, threads=1)
    rates = calibrate(report.plan, report.schedule, report.options)
    began = time.perf_counter()
    mergesafe.merge(content, tmp_path / "out", threads=1)
    took = time.perf_counter() - began
    assert took / 10 < rates.matrices < 10 * took
