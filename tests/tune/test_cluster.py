"""Tuning through Ray, on two nodes on this machine: the coefficients of one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mergesafe
from mergesafe.cli.optional_value import with_address
from mergesafe.errors import ArgumentError, BackendError, ClusterError, LossError
from mergesafe.tune.data.terms import make_terms
from mergesafe.tune.model.merged_model import MergedModel
from mergesafe.tune.search import remote_model as tune_cluster
from mergesafe.tune.search.remote_model import Pool, on_ray
from mergesafe.tune.setup import prepare

from .experts import Experts
from .runs import recipe
from .test_terms import with_rejected

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

SEARCHES: dict[str, Any] = {
    "method": "lm_cocktail",
    "then": {
        "method": "random",
        "budget": {"evaluations": 5},
        "then": {"method": "cmaes", "budget": {"steps": 3}, "then": "gradient"},
    },
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one processor each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(str(made.address), log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as a worker has here: with more, float32 sums may differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="class")
def pool(cluster: Any, experts: Experts) -> Iterator[tuple[Pool, MergedModel, Any]]:
    """The workers of a class of tests: each starts with the seconds of importing torch."""
    setup = prepare(recipe(experts))
    with (
        on_ray("auto", setup.plan, setup.space, memory=None, device="cpu", dtype="float32") as made,
        MergedModel(setup.plan, setup.space, device="cpu", dtype="float32") as merged,
    ):
        yield made, merged, setup


@pytest.mark.usefixtures("cluster", "one_thread")
def test_the_coefficients_of_one_process(
    experts: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One search after the other, at every evaluation; the workers run in another folder."""
    monkeypatch.chdir(experts.folder)
    made = recipe(experts, search=SEARCHES, budget={"steps": 3}, granularity="model")
    made["base_model"] = f"./{experts.base.name}"
    for each in made["models"]:
        each["model"] = f"./{Path(each['model']).name}"
    here, there = (
        mergesafe.tune(made, tmp_path / f"{ray}.yml", dtype="float32", ray=ray)
        for ray in (False, True)
    )
    assert there.coefficients == here.coefficients
    assert (there.objective, there.heldout) == (here.objective, here.heldout)
    assert [moment.terms for moment in there.history] == [moment.terms for moment in here.history]
    assert {moment.search for moment in here.history} == {
        "lm_cocktail",
        "random",
        "cmaes",
        "gradient",
    }
    assert (tmp_path / "True.yml").read_text() == (tmp_path / "False.yml").read_text()


@pytest.mark.usefixtures("cluster", "one_thread")
def test_constraints_and_preferences_through_ray(experts: Experts, tmp_path: Path) -> None:
    harmless = with_rejected(experts.folder / "harmless.jsonl", tmp_path / "harmless.jsonl")
    made = recipe(
        experts, constraints=["refusal_rate >= 1"], budget={"steps": 2}, init=0.1,
        objective=["cross_entropy", {"term": "dpo", "weight": 0.2}, {"term": "l2", "weight": 0.1}],
    )  # fmt: skip
    made["tune"]["data"][2]["path"] = str(harmless)
    here, there = (
        mergesafe.tune(made, tmp_path / f"{ray}.yml", dtype="float32", ray=ray)
        for ray in (False, True)
    )
    assert len(here.history) > 2  # the first search is not all: multipliers were at work
    assert there.coefficients == here.coefficients
    assert [each.value for each in there.constraints] == [each.value for each in here.constraints]


class TestOnePool:
    """Of the same workers; the last test kills them."""

    def test_parts_of_one_point_run_on_every_worker(
        self, one_thread: None, pool: tuple[Pool, MergedModel, Any]
    ) -> None:
        made, merged, setup = pool
        local = make_terms(setup.section, setup.splits, setup.space).objective(merged, None, 0)
        local.tokens = 100
        assert len(local.micro_batches(0)) > 2
        x = setup.start
        here = local.evaluate(x, grad=True)
        there = made.objective(local).evaluate(x, grad=True)
        assert (there.value, there.terms) == (here.value, here.terms)
        assert here.gradient is not None
        assert there.gradient is not None
        assert torch.equal(there.gradient, here.gradient)

    def test_a_loss_that_is_not_finite_is_the_same_error(
        self, pool: tuple[Pool, MergedModel, Any]
    ) -> None:
        made, merged, setup = pool
        local = make_terms(setup.section, setup.splits, setup.space).objective(merged, 4, 0)
        with pytest.raises(LossError, match=r"term '.*the loss is (nan|inf)"):
            made.objective(local).evaluate(setup.start * 1e300, grad=True)

    def test_a_worker_that_is_killed_starts_again(
        self, one_thread: None, pool: tuple[Pool, MergedModel, Any]
    ) -> None:
        made, merged, setup = pool
        local = make_terms(setup.section, setup.splits, setup.space).objective(merged, 4, 0)
        remote = made.objective(local)
        before = remote.evaluate(setup.start, grad=True)
        for worker in made.workers:
            pid = ray.get(worker.__ray_call__.remote(lambda _: os.getpid()))
            os.kill(pid, signal.SIGKILL)
        again = remote.evaluate(setup.start, grad=True)
        assert (again.value, again.terms) == (before.value, before.terms)

    def test_the_share_of_a_lost_worker_goes_to_another(
        self, one_thread: None, pool: tuple[Pool, MergedModel, Any]
    ) -> None:
        made, merged, setup = pool
        local = make_terms(setup.section, setup.splits, setup.space).objective(merged, 4, 0)
        remote = made.objective(local)
        before = remote.evaluate(setup.start, grad=True)
        ray.kill(made.workers[0])  # for good
        for _ in range(2):  # one of the two is its turn
            assert remote.evaluate(setup.start, grad=True).terms == before.terms
        assert len(made.workers) == 1
        ray.kill(made.workers[0])
        with pytest.raises(ClusterError, match="the last worker was lost"):
            remote.evaluate(setup.start, grad=True)


def test_a_cluster_that_is_partly_in_use(
    cluster: Any, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Holder:  # here, because workers cannot import the tests
        def alive(self) -> None:
            pass

    monkeypatch.setattr(tune_cluster, "_START_SECONDS", 2.0)
    holders = [ray.remote(num_cpus=1)(Holder).remote() for _ in range(2)]
    ray.get([holders[0].alive.remote(), holders[1].alive.remote()])
    setup = prepare(recipe(experts))
    asked = ("auto", setup.plan, setup.space)
    options: dict[str, Any] = {"memory": None, "device": "cpu", "dtype": "float32"}
    with pytest.raises(ClusterError, match="no worker could start"), on_ray(*asked, **options):
        pass
    ray.kill(holders[0])
    monkeypatch.setattr(tune_cluster, "_START_SECONDS", 30.0)  # a process starts beside others
    with on_ray(*asked, **options) as made:
        assert len(made.workers) == 1
    ray.kill(holders[1])


@pytest.mark.usefixtures("cluster", "one_thread")
def test_a_node_that_sees_other_files_is_refused(experts: Experts) -> None:
    """Other weights, another file of a method of one's own; with the same files it tunes."""
    setup = prepare({**recipe(experts), "merge_method": "tests.engine.written:summed"})
    weights = experts.base / "model.safetensors"
    with (
        on_ray("auto", setup.plan, setup.space, memory=None, device="cpu", dtype="float32") as made,
        MergedModel(setup.plan, setup.space, device="cpu", dtype="float32") as merged,
    ):
        local = make_terms(setup.section, setup.splits, setup.space).objective(merged, 4, 0)
        remote = made.objective(local)
        right, spec = made.made, ray.get(made.made)
        assert weights in spec.inputs
        assert len(spec.method_files) == 1
        for changed, told in (
            (replace(spec, inputs={weights: (1, 1)}), r"does not see .*model\.safetensors"),
            (replace(spec, method_files=dict.fromkeys(spec.method_files, "0" * 64)),
             "another file of the merge method"),
        ):  # fmt: skip
            made.made = ray.put(changed)
            with pytest.raises(ClusterError, match=told):
                remote.evaluate(setup.start, grad=True)
        made.made = right
        found = remote.evaluate(setup.start, grad=True)
        assert found.value == local.evaluate(setup.start, grad=True).value


def test_a_gpu_by_its_number_is_refused(experts: Experts, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="Ray hands out the GPUs"):
        mergesafe.tune(recipe(experts), tmp_path / "tuned.yml", ray=True, device="cuda:1")


def test_bad_addresses(experts: Experts, tmp_path: Path) -> None:
    out = tmp_path / "tuned.yml"
    with pytest.raises(ArgumentError, match='ray="somewhere": not an address'):
        mergesafe.tune(recipe(experts), out, ray="somewhere")
    assert not out.exists()
    # The command's bare --ray is this machine.
    assert with_address(["recipe.yml", "--ray", "-o", "x"]) == [
        "recipe.yml", "--ray=local", "-o", "x",
    ]  # fmt: skip


def test_a_cluster_without_room(cluster: Any, experts: Experts) -> None:
    setup = prepare(recipe(experts))
    with (
        pytest.raises(ArgumentError, match="no node of the cluster"),
        on_ray("auto", setup.plan, setup.space, memory="900TiB", device="cpu", dtype="float32"),
    ):
        pass


def test_nobody_at_an_address(
    experts: Experts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1"):
        mergesafe.tune(recipe(experts), tmp_path / "tuned.yml", ray="127.0.0.1:1")
