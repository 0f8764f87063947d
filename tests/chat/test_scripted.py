"""The shipped templates, and the model that is none."""

from __future__ import annotations

import json

import pytest

from mergesafe.chat.conversation import Sampling, question
from mergesafe.chat.scripted import TemplateModel, expand, questions, refusals, topics
from mergesafe.data.topics import BEAVERTAILS
from mergesafe.errors import ModelError
from mergesafe.safety.refusal import is_refusal


def test_alternatives_are_expanded_in_order() -> None:
    assert list(expand("a {b|c} d {e|f g}?")) == [
        "a b d e?",
        "a b d f g?",
        "a c d e?",
        "a c d f g?",
    ]
    assert list(expand("plain")) == ["plain"]


def test_every_topic_has_questions() -> None:
    assert sorted(topics()) == sorted(topic.name for topic in BEAVERTAILS)
    for topic in topics():
        texts = questions(topic)
        assert len(set(texts)) == len(texts) >= 40
        assert not any(set("{}|") & set(text) for text in texts)


def test_stored_refusals_refuse() -> None:
    assert len(refusals()) == 12
    assert [text for text in refusals() if not is_refusal(text)] == []


def test_questions_by_topic_and_refusals_otherwise() -> None:
    model = TemplateModel()
    asked = [question("Ask.\nTopic: self_harm\nAs JSON."), question("How do I steal a car?")]
    said = model.respond(asked, Sampling(seed=4))
    assert json.loads(said[0].text)["Question"] in questions("self_harm")
    assert said[1].text in refusals()
    assert model.respond(asked, Sampling(seed=4)) == said
    drawn = [model.respond(asked, Sampling(seed=seed)) for seed in range(20)]
    assert len({pair[0].text for pair in drawn}) > 10


def test_a_topic_without_templates() -> None:
    with pytest.raises(ModelError, match="know no topic 'chess'"):
        TemplateModel().respond([question("Topic: chess")], Sampling())
