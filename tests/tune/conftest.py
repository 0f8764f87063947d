"""Models that several test files of tuning share, trained once."""

from __future__ import annotations

import pytest

from .experts import Experts, make_experts


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Experts:
    """Tiny trained experts; tests must not change their folders."""
    return make_experts(tmp_path_factory.mktemp("experts"))
