"""What a reference names: a local path, a URL, or a model on the Hub."""

from __future__ import annotations

import pytest

from mergesafe.recipe.model import ModelRef
from mergesafe.references import is_url, local_path


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("file:///a%20b", "/a b"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("local:///a", "/a"),
        ("File://a/b", "a/b"),
        ("file:a", "file:a"),
        ("/a%20b", "/a%20b"),
        ("s3://a/b", "s3://a/b"),
    ],
)
def test_local_path(reference: str, path: str) -> None:
    assert local_path(reference) == path
    assert is_url(reference) == reference.startswith("s3")


def test_a_local_url_and_its_path_are_one_model() -> None:
    assert ModelRef("file:///models/a/").key == ModelRef("/models/a").key
