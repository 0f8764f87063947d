"""HfModel on a tiny model: answers, likelihoods, identity, and what is missing or wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from chatty import TEMPLATE, save_chat_model
from fake_hub import Hub, HubHandler
from safetensors.torch import load_file
from web import serve

from mergesafe.chat.conversation import Conversation, Sampling, question
from mergesafe.chat.hf import HfModel
from mergesafe.chat.pretrained import explained
from mergesafe.chat.reasoning import part
from mergesafe.errors import MergesafeError, ModelError

ASKED = [question(text) for text in ("Hi", "A rather longer question than the others", "So?")]
GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("hf") / "base")


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    return tiny.save_adapter(folder.parent / "adapter", weights, seed=1)


@pytest.fixture(scope="module")
def model(folder: Path) -> HfModel:
    return HfModel(str(folder), batch=2)


def test_answers_keep_their_order_and_do_not_hang_on_the_batch(model: HfModel) -> None:
    together = model.respond(ASKED, GREEDY)
    alone = [model.respond([asked], GREEDY)[0] for asked in ASKED]
    assert together == alone
    assert len({each.text for each in together}) == 3


def test_by_hand(model: HfModel, folder: Path) -> None:
    """Greedy decoding in a plain loop over the template's text."""
    text = "<|user|>Hi<|end|><|assistant|>"
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    said: list[int] = []
    for _ in range(12):
        logits = model.model(torch.tensor([ids + said])).logits[0, -1]
        said.append(int(logits.argmax()))
        if said[-1] == 0:
            break
    expected = model.tokenizer.decode(said, skip_special_tokens=True).strip()
    assert model.respond([question("Hi")], GREEDY)[0].text == expected


def test_a_token_for_padding_needs_no_row(folder: Path, model: HfModel, tmp_path: Path) -> None:
    """Fine-tunes add [PAD] and leave the embedding as it is."""
    other = shutil.copytree(folder, tmp_path / "other")
    padded = HfModel(str(other))
    padded.plain_tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert padded.plain_tokenizer.pad_token_id >= padded.model.config.vocab_size
    asked = [question("a"), question("a longer one")]
    sampling = Sampling(max_new_tokens=8, temperature=0)
    assert padded.respond(asked, sampling) == model.respond(asked, sampling)
    pairs = [(each, "b" * n) for n, each in enumerate(asked, 1)]
    for one, two in zip(padded.nll(pairs), model.nll(pairs), strict=True):
        assert one.total == pytest.approx(two.total, rel=1e-4)


def test_a_seed_draws_the_same_again(model: HfModel) -> None:
    drawn = [
        model.respond(ASKED, Sampling(max_new_tokens=12, temperature=1, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_nll_by_hand(model: HfModel) -> None:
    """−log softmax at every token of the answer and at the one that ends the turn."""
    prompt = model.tokenizer("<|user|>Hi<|end|><|assistant|>", add_special_tokens=False)
    answer = model.tokenizer("yes<|end|>", add_special_tokens=False)
    ids, tail = prompt["input_ids"], answer["input_ids"]
    with torch.inference_mode():
        logits = model.model(torch.tensor([ids + tail])).logits[0].float().log_softmax(-1)
    expected = -sum(float(logits[len(ids) + i - 1, t]) for i, t in enumerate(tail))
    long: tuple[Conversation, str] = (ASKED[1], "a longer answer")
    found = model.nll([(question("Hi"), "yes"), long])[0]
    assert found.tokens == len(tail) == 4
    assert found.total == pytest.approx(expected, rel=1e-5)  # float32 sums in another order


def test_an_adapter_is_folded_in(folder: Path, adapter: Path) -> None:
    with_adapter = HfModel(f"{folder}+{adapter}")
    name = "model.layers.0.self_attn.o_proj"
    base = load_file(folder / "model.safetensors")[f"{name}.weight"]
    factors = load_file(adapter / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    found = with_adapter.model.get_parameter(f"{name}.weight")
    torch.testing.assert_close(found, base + 2 * (b @ a))
    assert with_adapter.name == f"{folder}+{adapter}"


def test_identity(folder: Path, adapter: Path, tmp_path: Path) -> None:
    """It follows what changes answers, and not what a folder is called."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    plain = HfModel(str(folder)).identity
    assert HfModel(str(copy)).identity == plain
    assert HfModel(f"{folder}+{adapter}").identity != plain
    assert HfModel(str(folder), dtype="bfloat16").identity != plain
    (copy / "README.md").write_text("changes nothing")
    assert HfModel(str(copy)).identity == plain
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert HfModel(str(copy)).identity != plain
    save_chat_model(tmp_path / "other", seed=1)
    assert HfModel(str(tmp_path / "other")).identity != plain


def test_what_is_missing_or_wrong(folder: Path, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "mute", template=None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    torn = shutil.copytree(folder, tmp_path / "torn")
    (torn / "config.json").write_text("{")
    strange = {"model.layers.9.self_attn.o_proj.weight": torch.ones(4, 4)}
    tiny.save_adapter(tmp_path / "strange", strange, 0)
    cases = {
        tmp_path / "nowhere": "there is no such folder",
        tmp_path / "file": "this is a file",
        tmp_path / "empty": "there is no config.json, no tokenizer and no weights in the folder",
        tmp_path / "mute": "no chat template",
        torn: "config.json: not valid JSON",
        f"{folder}+{tmp_path / 'nowhere'}": "nowhere: there is no such folder",
        f"{folder}+{tmp_path / 'strange'}": "model.layers.9",
        "https://example.org/model": "not a URL",
    }
    for reference, words in cases.items():
        with pytest.raises(MergesafeError) as caught:
            HfModel(str(reference)).check()
        assert words in str(caught.value), reference


def test_what_a_missing_adapter_may_have_been(folder: Path, tmp_path: Path) -> None:
    tiny.save_adapter(tmp_path / "aligned", {}, 0)
    with pytest.raises(MergesafeError, match=r"Did you mean .*/aligned\?$"):
        HfModel(f"{folder}+{tmp_path / 'alined'}").check()


@pytest.mark.parametrize("device", ["cdua", "cuda:7", "meta:x"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    if device == "cuda:7" and torch.cuda.device_count() > 7:
        pytest.skip("there is one")
    with pytest.raises(MergesafeError, match=f"the device '{device}' cannot be used here"):
        HfModel(str(folder), device=device).check()


def test_a_tokenizer_that_a_missing_library_reads() -> None:
    """The files are right: to download them again would not help."""
    with (
        pytest.raises(ModelError, match="pip install sentencepiece") as caught,
        explained("model", "tokenizer"),
    ):
        raise ValueError("You need to have sentencepiece or tiktoken installed")
    assert "Download" not in str(caught.value)


def test_a_template_that_knows_no_system_prompt(tmp_path: Path) -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    )
    strict = HfModel(str(save_chat_model(tmp_path / "strict", template=template + TEMPLATE)))
    strict.respond([question("Hi")], GREEDY)
    with pytest.raises(ModelError, match="refuses a conversation of system, user: No system!"):
        strict.respond([question("Hi", "Be brief.")], GREEDY)


def test_too_little_memory(model: HfModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(model.model, "generate", full)
    with pytest.raises(ModelError, match="lower the model's 'batch'"):
        model.respond(ASKED, GREEDY)


SCRIPT = """
from mergesafe.chat.hf import HfModel
from mergesafe.chat.conversation import Sampling, question
model = HfModel("org/chat")
model.check()
print(model.identity)
print(model.respond([question("Hi")], Sampling(max_new_tokens=5))[0].text.encode().hex())
print(model.name)
"""


def test_a_model_of_a_hub_runs_at_the_commit_that_its_identity_names(
    folder: Path, model: HfModel, tmp_path: Path
) -> None:
    other = save_chat_model(tmp_path / "other", seed=5)
    with serve(Hub(folder.parent), HubHandler) as hub:
        hub.add("org/chat", folder)
        hub.moving["org/chat"] = hub.add("org/chat", other, "next")
        environment = {**os.environ, **hub.environment(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    identity, said, name = done.stdout.splitlines()
    assert len(identity) == 32
    expected = model.respond([question("Hi")], Sampling(max_new_tokens=5))[0].text
    assert bytes.fromhex(said).decode() == expected
    assert name == "org/chat"


def test_tags_of_reasoning_are_kept_although_they_are_special(folder: Path) -> None:
    """A tokenizer may list them as special tokens, which decoding drops."""
    model = HfModel(str(folder))
    tokenizer = model.plain_tokenizer
    plain = tokenizer("a<|end|>")["input_ids"]
    assert model._decoded([plain]) == ["a"]
    tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=True)
    ids = tokenizer("[THINK]a[/THINK]b<|user|><|end|>")["input_ids"]
    assert model._decoded([ids]) == ["[THINK]a[/THINK]b"]


def test_a_template_that_opens_the_reasoning(folder: Path, tmp_path: Path) -> None:
    opens = TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
    model = HfModel(str(save_chat_model(tmp_path, template=opens)))
    [said] = model.respond([question("hi")], Sampling(4))
    plain = part(said.text)
    assert said.text.startswith("<think>\n") == (not said.finished)
    assert plain.complete == said.finished
