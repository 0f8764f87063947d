"""Both backends of the CPU, for cases that were worked out by hand."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
