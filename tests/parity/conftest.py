"""One process of the installed mergekit for all tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .peer import Mergekit, mergekit_python


@pytest.fixture(scope="session")
def mergekit_or_none(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mergekit | None]:
    """None where mergekit is not installed."""
    if mergekit_python() is None:
        yield None
        return
    with Mergekit(tmp_path_factory.mktemp("mergekit")) as mergekit:
        yield mergekit


@pytest.fixture
def mergekit(mergekit_or_none: Mergekit | None) -> Mergekit:
    if mergekit_or_none is None:
        pytest.skip("mergekit is not installed; `make parity` does it")
    return mergekit_or_none
