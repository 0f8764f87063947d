"""The one place where transformers loads something: no code of a model, no pickles, no surprises.

Every call says ``trust_remote_code=False``: left out, transformers asks on standard input whether
to run a model's own Python, and a pipe may answer. Weights are safetensors only, files of a local
folder are never looked up on the Hub, and the configuration that transformers gets is the one that
:mod:`mergesafe.chat.declared` has checked.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from mergesafe.chat.declared import (
    ADVICE,
    GENERATION_NAME,
    TOKENIZER_CONFIG,
    cleaned,
    loose_object,
    refuse_strangers,
    settings_of,
)
from mergesafe.chat.generation import generation_settings
from mergesafe.chat.runnable import require
from mergesafe.chat.sizes import check_counts, check_size
from mergesafe.chat.tokenizer_files import check_tokenizer_files
from mergesafe.checkpoint.format.model import CONFIG_NAME, Checkpoint, open_checkpoint
from mergesafe.checkpoint.places.hub import HubStore
from mergesafe.checkpoint.places.location import Location
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.errors import MergesafeError, ModelError
from mergesafe.untrusted import show

#: What is made of a folder: a language model, an encoder, an encoder with outputs for classes.
Kind = Literal["AutoModelForCausalLM", "AutoModel", "AutoModelForSequenceClassification"]
CAUSAL: Final = "AutoModelForCausalLM"
ENCODER: Final = "AutoModel"
CLASSIFIER: Final = "AutoModelForSequenceClassification"
#: Passed to everything that loads.
_NO_CODE: Final = {"trust_remote_code": False}


def check_declared(place: Location) -> None:
    """Refuse a model that cannot be loaded without running or fetching something of its own.

    Raises:
        ModelError, CheckpointError: the message names the file and what it asks for.
    """
    require()
    with explained(place, "configuration"):
        config, _ = _checked_config(place, open_checkpoint(place))
        _check_tokenizer_class(place, config)
        check_tokenizer_files(place)


def load_tokenizer(place: Location, **options: Any) -> Any:
    """The tokenizer of the model at ``place``.

    Raises:
        ModelError, CheckpointError: transformers has no class for it, or cannot load it.
    """
    require()
    with explained(place, "tokenizer"):
        from transformers import AutoTokenizer

        config, _ = _checked_config(place, open_checkpoint(place))
        _check_tokenizer_class(place, config)
        check_tokenizer_files(place)
        return AutoTokenizer.from_pretrained(**_source(place), config=config, **_NO_CODE, **options)


def load_tokenizer_alone(folder: Path, **options: Any) -> Any:
    """The tokenizer that lies in ``folder`` with a config.json and no weights.

    Raises:
        ModelError, CheckpointError: transformers has no class for it, or cannot load it.
    """
    require()
    with explained(folder, "tokenizer"):
        from transformers import AutoTokenizer

        config = _config(settings_of(folder), str(folder / CONFIG_NAME))
        _check_tokenizer_class(folder, config)
        check_tokenizer_files(folder)
        return AutoTokenizer.from_pretrained(
            **_source(folder), config=config, **_NO_CODE, **options
        )


def load_model(
    place: Location, kind: Kind, *, dtype: Any, complete: bool = True, outputs: int | None = None
) -> Any:
    """The model at ``place``; ``complete``: its weights must be those of the whole model;
    ``outputs``: of a classifier, in place of those that the configuration names.

    Raises:
        ModelError, CheckpointError: transformers has no class for it, or cannot load it, or the
            weights leave a part of the model out, which would get random numbers.
    """
    require()
    with explained(place, "model"):
        import transformers

        checkpoint = open_checkpoint(place)
        config, settings = _checked_config(place, checkpoint, outputs)
        factory: Any = getattr(transformers, kind)
        _check_size(factory, config, checkpoint)
        options: dict[str, Any] = {}
        if kind == CAUSAL:
            stored = loose_object(place / GENERATION_NAME)
            generation: Any = transformers.GenerationConfig
            kept = generation_settings(stored or settings, place)
            options["generation_config"] = generation(**kept)
        model, found = factory.from_pretrained(
            **_source(place), config=config, dtype=dtype, use_safetensors=True,
            output_loading_info=True, **_NO_CODE, **options,
        )  # fmt: skip
    missing = sorted(found["missing_keys"]) if complete else []
    if missing:
        raise ModelError(
            f"{place}: the weights lack {len(missing):,} tensors of the model that {CONFIG_NAME} "
            f"describes, such as {show(missing[0])}; transformers would fill them with random "
            "numbers. Fetch the missing shards, or correct the configuration."
        )
    return model


def model_without_weights(
    settings: dict[str, Any], dtype: Any, where: str, checkpoint: Checkpoint | None = None
) -> Any:
    """A language model as ``settings``, a ``config.json`` read by mergesafe, describe it.

    ``checkpoint``: weights that the model must fit.

    Raises:
        ModelError: transformers cannot build it.
    """
    require()
    with explained(where, "model"):
        if checkpoint is not None:
            check_counts(settings, checkpoint)
        from transformers import AutoModelForCausalLM

        factory: Any = AutoModelForCausalLM
        return factory.from_config(_config(settings, where), dtype=dtype, **_NO_CODE)


def load_gguf(file: Path, dtype: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file.

    Raises:
        ModelError: transformers cannot read it.
    """
    require()
    with explained(file, "GGUF file"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        factory: Any = AutoModelForCausalLM
        source: dict[str, Any] = {
            "pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name,
            "local_files_only": True, **_NO_CODE,
        }  # fmt: skip
        model = factory.from_pretrained(**source, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(**source, padding_side="left")


def _checked_config(
    place: Location, checkpoint: Checkpoint, outputs: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """The configuration for transformers, and what the file says."""
    settings = settings_of(place)
    refuse_strangers(place, settings)
    check_counts(settings, checkpoint)
    options = {} if outputs is None else {"num_labels": outputs}
    with explained(place / CONFIG_NAME, "configuration"):
        config = _config(settings, str(place / CONFIG_NAME), **options)
    config.name_or_path = _source(place)["pretrained_model_name_or_path"]
    return config, settings


def _check_size(factory: Any, config: Any, checkpoint: Checkpoint) -> None:
    """Make the model without memory, and see whether it is one of these weights."""
    import torch

    with torch.device("meta"):
        check_size(factory.from_config(copy.deepcopy(config), **_NO_CODE), checkpoint)


def _config(settings: dict[str, Any], where: str, **options: Any) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        own = settings.get("auto_map")
        code = f", and names code of its own (auto_map: {show(own)})" if own else ""
        raise ModelError(
            f"{where}: model_type is {show(kind)}, which transformers does not have{code}. "
            f"{ADVICE if own else 'Correct it, or install a newer transformers.'}"
        )
    # Through a file: what AutoConfig makes of one differs from its constructor's arguments.
    with TemporaryDirectory(prefix="mergesafe-") as folder:
        text = json.dumps(cleaned(settings))
        (Path(folder) / CONFIG_NAME).write_text(text, encoding="utf-8")
        return AutoConfig.from_pretrained(folder, local_files_only=True, **_NO_CODE, **options)


def _check_tokenizer_class(place: Location, config: Any) -> None:
    """Refuse a tokenizer that is code of the model's, or a class that is no tokenizer."""
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    file = place / TOKENIZER_CONFIG
    settings = loose_object(file)
    named = settings.get("tokenizer_class") or getattr(config, "tokenizer_class", None)
    own = settings.get("auto_map")
    found: Any = None
    if isinstance(named, str) and named.isidentifier():
        plain = named.removesuffix("Fast")
        found = next(
            filter(None, map(tokenizer_class_from_name, (named, plain, f"{plain}Fast"))), None
        )
    if own and found is None:
        raise ModelError(
            f"{file}: the tokenizer is code of the model's own (auto_map: {show(own)}). {ADVICE}"
        )
    if named and not isinstance(named, str):
        raise ModelError(f"{file}: tokenizer_class is {show(named)}, expected a name")
    if found is not None and not (
        isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)
    ):
        raise ModelError(f"{file}: tokenizer_class is {show(named)}, which is no tokenizer")


def _source(place: Location) -> dict[str, Any]:
    """What transformers calls the model, and the commit: a branch may move meanwhile."""
    if isinstance(place, RemotePath) and isinstance(place.store, HubStore):
        return {
            "pretrained_model_name_or_path": place.store.repo, "revision": place.store.commit,
        }  # fmt: skip
    return {"pretrained_model_name_or_path": str(place), "local_files_only": True}


@contextmanager
def running(where: object) -> Iterator[None]:
    """What goes wrong inside a model or its tokenizer, as one paragraph.

    Errors that name a way out already, and a device without memory, are left as they are.
    """
    import torch

    try:
        yield
    except (MergesafeError, OSError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if not _of_the_files(error):
            raise
        why = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{where}: the model cannot be run ({type(error).__name__}: {why}). Its config.json or "
            "tokenizer may not be that of its weights: download the model again."
        ) from error


def _of_the_files(error: BaseException) -> bool:
    """Whether the files may be to blame, and not whoever interrupts."""
    # What Rust gives up on (a panic) is no Exception of Python's.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def explained(where: object, what: str) -> Iterator[None]:
    """Quietly, and with whatever transformers raises for a bad ``what`` as one paragraph."""
    try:
        with quiet():
            yield
    except MergesafeError:
        raise
    except BaseException as error:
        if not _of_the_files(error):
            raise
        why = " ".join(str(error).split())[:400]
        advice = "Download the model again, or correct the file."
        if "sentencepiece" in why or "tiktoken" in why:
            advice = (
                "A tokenizer without tokenizer.json needs a library that reads its file: pip "
                "install sentencepiece (tokenizer.model) or tiktoken (*.tiktoken), or put a "
                "tokenizer.json of the same tokens beside the weights."
            )
        raise ModelError(
            f"{where}: transformers cannot load the {what} ({type(error).__name__}: {why}). "
            "Expected config.json, tokenizer and safetensors weights of a model that transformers "
            f"has; a model's own code is not run. {advice}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and advice for seconds of loading."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    # No kernels of the Hub: they are compiled code that a configuration could ask for.
    os.environ.setdefault("USE_HUB_KERNELS", "NO")
    from transformers.utils import logging as logs

    before = logs.get_verbosity()
    logs.set_verbosity(logging.ERROR)
    logs.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logs.set_verbosity(before)
