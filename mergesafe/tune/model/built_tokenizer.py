"""The tokenizer of a merged model that no input has: it is made of several."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mergesafe.chat.pretrained import load_tokenizer_alone
from mergesafe.chat.tokens import check_template
from mergesafe.checkpoint.format.model import CONFIG_NAME
from mergesafe.checkpoint.output.companions import is_of_tokenizer
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.tokenizer.vocabulary import read_bounded


def built_tokenizer(plan: MergePlan) -> Any:
    """The tokenizer that the merge would write, padding on the left; it has a chat template.

    Raises:
        ModelError, CheckpointError: it cannot be loaded, or has no template.
    """
    files = {name: read_bounded(place) for place, name in plan.carried if is_of_tokenizer(name)}
    files |= plan.made_files()
    files[CONFIG_NAME] = json.dumps(plan.config).encode()
    with TemporaryDirectory(prefix="mergesafe-tokenizer-") as made:
        for name, data in files.items():
            place = Path(made, name)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
        tokenizer = load_tokenizer_alone(Path(made), padding_side="left")
    check_template(tokenizer, "the merged model")
    return tokenizer
