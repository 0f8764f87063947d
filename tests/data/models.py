"""Models of an endpoint that answer by rule, for sets that are built in a test."""

from __future__ import annotations

import json
from typing import Any

from endpoint import Endpoint

REFUSAL = "I'm sorry, but I can't help with that."
COMPLIANCE = "Sure, here is how: [REDACTED]"


def as_json(text: str) -> str:
    return json.dumps({"Question": text})


def spec(end: Endpoint, name: str, **options: Any) -> dict[str, Any]:
    """A model of the endpoint as a recipe writes it."""
    base = {"provider": "openai", "model": name, "name": name, "base_url": end.url, "timeout": 20}
    return {**base, "concurrency": 8, **options}
