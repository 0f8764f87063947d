"""Models by spec: text, mappings, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mergesafe.chat.hf import HfModel
from mergesafe.chat.openai import OpenAIModel
from mergesafe.chat.providers import make_model
from mergesafe.chat.scripted import TemplateModel
from mergesafe.errors import ArgumentError


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ("org/name@v1+adapter", HfModel("org/name@v1+adapter")),
        ({"model": "a", "name": "b", "dtype": "float32", "batch": 4, "device": "cpu"},
         HfModel("a", label="b", dtype="float32", batch=4, device="cpu")),
        ({"provider": "openai", "model": "m", "base_url": "http://h/v1", "api_key_env": "K",
          "concurrency": 2, "timeout": 1.5, "retries": 0, "requests_per_minute": 30, "name": "n"},
         OpenAIModel("m", "http://h/v1", "K", 2, 1.5, 0, 30, "n")),
        ({"provider": "openai", "model": "m"}, OpenAIModel("m")),
        ({"provider": "template"}, TemplateModel()),
    ],
)  # fmt: skip
def test_spec(spec: Any, model: object) -> None:
    assert make_model(spec) == model


def test_relative_paths_fall_back_to_a_folder() -> None:
    assert make_model("models/a", Path("/data")) == HfModel("models/a", folder=Path("/data"))


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("a+", "expected PATH or PATH+ADAPTER"),
        ("a+b+c", "expected PATH or PATH+ADAPTER"),
        ("", "is empty"),
        ({}, "has no 'model'"),
        ({"provider": "opnai"}, "did you mean 'openai'?"),
        ({"provider": "openai", "modle": "m"}, "did you mean 'model'?"),
        ({"provider": "openai", "model": "m", "retries": -1}, "at least 0"),
        ({"provider": "openai", "model": "m", "timeout": 0}, "at least 0.01"),
        ({"provider": "openai", "model": "m", "timeout": "long"}, "must be a number"),
        ({"model": "a", "dtype": "bfloat"}, "did you mean 'bfloat16'?"),
        ({"model": "a", "batch": 0}, "at least 1"),
        ({"model": "a", "base_url": "x"}, "unknown key 'base_url'"),
        ({"provider": "template", "model": "a"}, "unknown key 'model'"),
    ],
)
def test_mistake(spec: Any, complaint: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make_model(spec)
    assert complaint in str(caught.value)
    assert "recipe" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["x", "ftp://h/v1", "http://", "http://[::1", "http://h:x/v1", "http://h:99999/v1"]
)
def test_an_address_that_is_none_is_told_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ArgumentError, match=r"base_url.* cannot be used"):
        make_model({"provider": "openai", "model": "m", "base_url": url})
