"""Cases, peers and the table, on a few elements."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import peers, roofline, timing
from bench.cases import CHECKED, Case, WrongAnswer, cases, rotated, same_bits
from bench.data import Data
from bench.device import NoDevice, choose
from bench.machine import DeviceCopy
from bench.peers.plain import EXPRESSIONS
from mergesafe.ops.backends.reference import ReferenceBackend

CPU = torch.device("cpu")
CASES = {case.label: case for case in cases()}
REFERENCE = ReferenceBackend()


class OneOff(ReferenceBackend):
    """Wrong in the last element of a sum, and writes nothing where it merges."""

    name = "native"

    def weighted_sum(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = super().weighted_sum(*args, **kwargs)
        integers = out.view(torch.int16)
        integers[-1] ^= 1
        return out

    def merge_task_vectors(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.empty(0)


def test_labels_are_unique() -> None:
    assert len(CASES) == len(list(cases()))


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.label)
def test_every_case_runs_on_the_reference(case: Case) -> None:
    data = case.data(2003, CPU)
    case.check(REFERENCE, data)
    assert data.experts[0].numel() == 2003
    assert len(data.outs) == case.pieces
    assert sum(out.numel() for out in data.outs) == 2003


@pytest.mark.parametrize(
    ("label", "width"),
    [
        ("weighted_sum[3xbf16]", 2 * 4),
        ("merge_ties[3xbf16]", 2 * 5),
        ("merge_ties[3xfp32]", 4 * 5),
        ("kth_magnitude[3xbf16]", 2 * 4),
        ("ties_whole[3xbf16]", 2 * (2 * 4 + 1)),
        ("gradient_ties[3xbf16]", 2 * 5),
        ("inner_products[3xbf16]", 2 * 4),
    ],
)
def test_bytes(label: str, width: int) -> None:
    assert CASES[label].bytes_moved(1000) == 1000 * width


def test_a_batch_has_as_many_bytes_as_one_tensor() -> None:
    one, batch = CASES["merge_jobs[3xbf16]"], CASES["merge_jobs[3xbf16 in 1000]"]
    assert one.bytes_moved(1) == batch.bytes_moved(1) == 5 * 1000 * 65536


@pytest.mark.parametrize("label", ["weighted_sum[3xbf16]", "merge_ties[3xbf16]"])
def test_a_wrong_answer_is_found(label: str) -> None:
    with pytest.raises(WrongAnswer, match="of native differs from the reference on 2003 elements"):
        CASES[label].check(OneOff(), CASES[label].data(2003, CPU))


def test_same_bits_is_about_bits() -> None:
    zero = torch.zeros(2)
    assert same_bits(zero, zero.clone())
    assert not same_bits(-zero, zero)
    assert not same_bits(zero.double(), zero)
    assert not same_bits(zero[:1], zero)
    assert same_bits([[1, 2]], [[1, 2]])


def test_sets_are_rotated_until_the_cache_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["weighted_sum[3xbf16]"]
    monkeypatch.setattr("bench.cases.cache_bytes", lambda _: 2 * case.bytes_moved(64))
    sets = case.sets(64, CPU)
    assert len(sets) == 5
    assert not torch.equal(sets[0].experts[0], sets[1].experts[0])
    seen: list[Data] = []
    call = rotated(seen.append, sets)
    for _ in range(6):
        call()
    assert [seen.index(each) for each in seen[5:]] == [0]
    monkeypatch.setattr("bench.cases.cache_bytes", lambda _: 64)
    assert len(case.sets(64, CPU)) == 1


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_plain_expressions_do_the_same(name: str) -> None:
    case = CASES[f"{name}[3xbf16]"]
    run = peers.peer("torch", case)
    assert run is not None
    data = case.data(20011, CPU)
    expected = case.answer(REFERENCE, data.on("cpu"))
    peers.check(case, run, data, expected)
    with pytest.raises(peers.NoPeer, match="further than 1/128"):
        peers.check(case, run, data, expected * 1.1)
    with pytest.raises(peers.NoPeer, match="values instead of"):
        peers.check(case, run, data, expected.flatten()[:1])


@pytest.mark.parametrize("name", peers.mergekit.METHODS)
def test_mergekit_does_the_same(name: str) -> None:
    pytest.importorskip("mergekit", reason="mergekit is not installed")
    case = CASES[f"{name}[3xbf16]"]
    run = peers.peer("mergekit", case)
    assert run is not None
    data = case.data(20011, CPU)
    peers.check(case, run, data, case.answer(REFERENCE, data.on("cpu")))


def test_a_missing_mergekit_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mergekit", None)
    monkeypatch.setitem(sys.modules, "mergekit.merge_methods", None)
    with pytest.raises(peers.NoPeer, match="mergekit cannot be imported"):
        peers.peer("mergekit", CASES["ties_whole[3xbf16]"])
    assert peers.peer("mergekit", CASES["gradient_ties[3xbf16]"]) is None
    assert peers.peer("torch", CASES["weighted_sum[2xbf16]"]) is None


def small_run(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> int:
    """bench.roofline on 4096 elements, against a copy of a few bytes instead of the triad."""
    monkeypatch.setattr(roofline, "yardstick", lambda device, threads: DeviceCopy(device, 4096))
    options = ["--device", "cpu", "--elements", "4096", "--rounds", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["roofline", *options, "--out", str(folder), *more])
    return roofline.main()


def test_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("--only", "weighted_sum[3xbf16", "--peers", "torch")
    assert small_run(monkeypatch, tmp_path, *only) == 0
    with (tmp_path / "roofline_cpu.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["backend"], row["status"], row["bytes"]) == ("native", "ok", str(4096 * 8))
    assert 0 < float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
    assert float(row["x_torch"]) > 0
    assert all(row[key] for key in ("device", "torch", "commit", "limit_GB/s", "share"))
    printed = capsys.readouterr().out
    assert "4096 elements; it takes 67108864" in printed


def test_a_wrong_kernel_has_no_speed_and_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(roofline, "get_backend", lambda *_: OneOff())
    only = ("--only", "merge_ties[3xbf16", "--peers", "")
    assert small_run(monkeypatch, tmp_path, *only) == 1
    with (tmp_path / "roofline_cpu.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"].startswith("WrongAnswer")
    assert "p50_ms" not in row
    assert "share" not in row
    assert "NO SPEED: WrongAnswer" in capsys.readouterr().out


def test_a_backend_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("--only", "weighted_sum[3xbf16", "--peers", "", "--backends", "native,absent")
    assert small_run(monkeypatch, tmp_path, *only) == 1
    assert "not measured: absent: unknown backend 'absent'" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        small_run(monkeypatch, tmp_path, "--device", "cuda")
    assert stopped.value.code == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("no GPU")
    assert list(tmp_path.iterdir()) == []
    assert choose("auto") == CPU
    with pytest.raises(NoDevice):
        choose("cuda")
    with pytest.raises(ValueError, match="expected cpu, cuda or auto"):
        choose("gpu")


def test_timing_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run lies between its own two events, after a call that is not timed."""
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("event")

        def elapsed_time(self, end: Event) -> float:
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("sync"))
    runs = [lambda: log.append("a"), lambda: log.append("b")]
    first, second = timing.measure_cuda(runs, 2, lambda: log.append("between"), warm_up=1)
    one = ["sync", "between", "event", "a", "event", "sync", "between", "event", "b", "event"]
    assert log == [*one * 3, "sync"]
    assert first.p20 == first.p50 == first.p80 == second.p50 == 0.002
    assert first.host >= 0
    assert replace(first, host=0.001).call == 0.002
    assert replace(first, host=0.003).call == 0.003


def test_the_checked_size_straddles_blocks() -> None:
    assert CHECKED % 4096
    assert CHECKED % 16
