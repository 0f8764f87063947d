"""What a reference names: a local path, a URL, or a model on the Hub."""

from __future__ import annotations

import time

import pytest

from mergesafe.errors import CheckpointError, DataError, RecipeError
from mergesafe.recipe.model import ModelRef
from mergesafe.references import endpoint_name, is_url, local_path, redact, redact_text

KEY = "k3y0" * 8


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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host/x", "https://***@host/x"),
        ("https://secret@host", "https://***@host"),
        ("HTTPS://ME:SECRET@HOST:8000/x", "HTTPS://***@HOST:8000/x"),
        ("https://me:secret@[::1]:8000/x", "https://***@[::1]:8000/x"),
        ("https://me:se/cr?e#t@host/x", "https://***@host/x"),
        ("https://secret%40host/x", "https://***@host/x"),
        ("https://host/x?sig=secret&se=1#secret", "https://host/x?***"),
        ("https://host/x#access_token=secret?a", "https://host/x#***"),
        ("https://host/x;token=secret/y", "https://host/x;***/y"),
        ("https://host/x?at=https://other/y&sig=secret", "https://host/x?***"),
        ("s3://KEY:sec/ret@bucket/x", "s3://***@bucket/x"),
        ("simplecache::https://me:secret@host/x", "simplecache::https://***@host/x"),
        ("zip://a::https://secret@host/x?secret", "zip://a::https://***@host/x?***"),
        ("https://host/https://secret@other/x", "https://host/https://***@other/x"),
        ("https%3A%2F%2Fme%3Asecret%40host", "https%3A%2F%2F***"),
        ("https://host/https%253a%252f%252fsecret%2540x", "https://host/https%253a%252f%252f***"),
        ("https:/me:secret@host/x", "https:/***@host/x"),
        (r"https:\/\/me:secret@host\/x", r"https:\/\/***@host\/x"),
        ("m@https://me:secret@host/v1", "m@https://***@host/v1"),
        (f"hf_{KEY}", "hf_***"),
        (f"sk-proj-{KEY}", "sk-***"),
        (f"AKIA{KEY}", "AKIA***"),
        (f"Bearer {KEY}", "Bearer ***"),
        (f"api_key={KEY}", "api_key=***"),
        (f"X-Amz-Signature={KEY}", "X-Amz-Signature=***"),
        (f"hf_{'aBcdeFghiJ' * 3}klmn", "hf_***"),
        (f"hf_jwt_eyJ{KEY}.{KEY}", "hf_***"),
        (f"eyJ{KEY}.{KEY}.{KEY}", "eyJ***"),
        (f"Bearer {'aBcdeFghiJ' * 3}klmn", "Bearer ***"),
        ("Basic dXNlcjpwYXNzd29yZA", "Basic ***"),
        (f"x-api-key: {KEY}", "x-api-key: ***"),
        (f"AccountKey={KEY}==;x", "AccountKey=***;x"),
        (f"npm_{KEY}", "npm_***"),
        (f"ya29.{KEY}", "ya29.***"),
        (f"https://host/token={KEY}/x", "https://host/token=***/x"),
        (f"host/x&token={KEY}", "host/x&token=***"),
        (f"host%3Fsig={KEY}", "host%3Fsig=***"),
        (f"//me:{KEY}@host/x", "//***@host/x"),
    ],
)
def test_secrets_are_hidden(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert redact_text(f"a '{url}': not found") == f"a '{shown}': not found"
    assert redact(shown) == redact_text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8000/x/y", "https://[::1]:80/x@y", "hf://org/name@main", "org/name@main",
        "file:///a@b?c", "C:/Users/me@home", "s3://bucket/x@y", "risk-averse-and-task-oriented",
        "base_model: /models/a@b # see https://arxiv.org/abs/2306.01708", "http://[", "a?b=c#d",
        "the bearer of understandings", "/models/hf_transformers_checkpoint_2024",
        "def f(api_key=None, password=None): return 1", "sk-learn-pipeline-version-1234567890",
        "Basic internationalization2", "gsk_pretrained_model_12345678", "eyJafjallajokull2010",
        "hf_hub_download_v2_something1", "What is a good password: long or short?", "a:b@c",
        r"C:\Users\me\model", "joe@example.com", "models/key=value/x",
        "// note: see a@b", "//a/b:c@d",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_left(text: str) -> None:
    assert redact(text) == redact_text(text) == text


def test_a_value_that_is_one_url_may_hold_quotes_and_spaces() -> None:
    assert redact("https://me:s e'c\"ret@host/x?s e") == "https://***@host/x?***"


def test_endpoints_are_named_by_their_place() -> None:
    assert endpoint_name("https://me:secret@host:8000/v1/?sig=secret#x") == "https://host:8000/v1"
    assert endpoint_name("http://[::1]:99999/v1;token=secret") == "http://[::1]:99999/v1"


def test_messages_of_errors_hold_no_secrets() -> None:
    url = "https://me:secret@host/x?sig=secret"
    for error in (
        CheckpointError(f"{url}: no such file"),
        RecipeError(f"unknown key '{url}'", source=url, line=1),
        DataError("malformed", source=url),
    ):
        assert "secret" not in f"{error} {error.args} {error.paragraphs}"


@pytest.mark.parametrize(
    "piece",
    [
        "a", "a://", "://", "https://a@", "%25", "%3a%2f", "x:", "@", "a://?***", "hf_", "sk-a1",
        "eyJaaaaaaaaaaaaaaaa.", "bearer ", "api_key=abcd ", ";", "a://;", "a://a:a/", "eyJ",
        "a%3a%2f%2f%40",
        " https://x?y", "::", "'", "[", "/token=", "&key=a1", " //a:", "=//a:b", "%3Fsig%3D",
    ],
)  # fmt: skip
def test_time_grows_with_the_text(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    began = time.process_time()
    redact_text(text)
    redact(text)
    assert time.process_time() - began < 1


def test_of_very_many_urls_none_is_shown() -> None:
    shown = redact_text(" https://secret@host" * 30_000)
    assert "secret" not in shown
