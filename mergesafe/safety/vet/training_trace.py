"""``training_args.bin``, which transformers' Trainer leaves beside the model that it has trained.

It is a pickle of the settings of the training, and needs names that weights do not. It is
followed as Python follows it, with stand-ins for what it names, and counts as such a trace where it
makes what the Trainer writes and nothing else: objects of known classes, filled with plain data.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, Final

from mergesafe.safety.vet.opcodes import DTYPES

NAME: Final = "training_args.bin"
#: Bytes of the file; real ones have five thousand.
_LARGEST: Final = 1 << 20
_PICKLE: Final = "data.pkl"
#: What torch puts beside the pickle, and how much of it: numbers of versions.
_BESIDE: Final = (
    ".format_version", ".storage_alignment", "byteorder", "version", ".data/serialization_id",
)  # fmt: skip
_VERSION: Final = 64
_EOCD: Final = 22

_TRL: Final = (
    "bco",
    "cpo",
    "dpo",
    "gkd",
    "grpo",
    "kto",
    "orpo",
    "ppo",
    "prm",
    "rloo",
    "sft",
    "xpo",
)
#: Made without their constructor and filled with plain data. None has a method for being filled.
_RECORDS: Final = frozenset((
    "transformers.training_args.TrainingArguments",
    "transformers.training_args_seq2seq.Seq2SeqTrainingArguments",
    "transformers.trainer_pt_utils.AcceleratorConfig",
    "transformers.integrations.deepspeed.HfTrainerDeepSpeedConfig",
    "transformers.deepspeed.HfTrainerDeepSpeedConfig",
    "accelerate.state.PartialState",
    "accelerate.utils.dataclasses.DeepSpeedPlugin",
    "sentence_transformers.training_args.SentenceTransformerTrainingArguments",
    "llamafactory.hparams.training_args.TrainingArguments",
    "axolotl.core.training_args.AxolotlTrainingArguments",
    "axolotl.core.trainer_builder.AxolotlTrainingArguments",
    *(f"trl.trainer.{name}_config.{name.upper()}Config" for name in _TRL),
    "trl.trainer.nash_md_config.NashMDConfig", "trl.trainer.online_dpo_config.OnlineDPOConfig",
    "trl.trainer.reward_config.RewardConfig",
))  # fmt: skip
#: Lists of names: called with one text or number, which picks a member.
_CHOICES: Final = frozenset((
    *(f"transformers.trainer_utils.{name}" for name in (
        "EvaluationStrategy", "FSDPOption", "HubStrategy", "IntervalStrategy", "SaveStrategy",
        "SchedulerType", "ShardedDDPOption",
    )),
    "transformers.training_args.OptimizerNames", "transformers.debug_utils.DebugOption",
    "accelerate.utils.dataclasses.DistributedType", "accelerate.utils.dataclasses.DynamoBackend",
    *(f"trl.trainer.{place}.FDivergenceType" for place in ("dpo_config", "utils")),
))  # fmt: skip
_OPERATIONS: Final = (
    pickle.PROTO, pickle.STOP, pickle.GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.MARK,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2,
    pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.EMPTY_TUPLE, pickle.TUPLE,
    pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS,
    pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS, pickle.BINPUT, pickle.LONG_BINPUT,
    pickle.BINGET, pickle.LONG_BINGET,
)  # fmt: skip

#: By which Python 3.11.0 to 3.11.3 write a member of a list of names.
_PICKED_BY_NAME: Final = "builtins.getattr"
#: All that it may import besides what weights do.
IMPORTS: Final = _RECORDS | _CHOICES | {_PICKED_BY_NAME}


class _OtherError(Exception):
    """It is something else than a trace of training."""


class _Filled:
    """Stands in for what is made without its constructor."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise _OtherError


class _Choice:
    """Stands in for what is called with a value."""


class _Choices:
    """Stands in for a list of names."""

    def __call__(self, value: object) -> _Choice:
        return _choice(value, str, int)


def is_trace(path: str) -> bool:
    """Whether loading the file makes the settings of a training, and does nothing else."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        return len(data) <= _LARGEST and isinstance(_Reader(_stored(data)).load(), _Filled)
    except Exception:  # whatever a pickle of something else leads to
        return False


def _stored(data: bytes) -> io.BytesIO:
    """The pickle in the archive that torch wrote; one way to read it, and nothing hidden in it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {each.filename: each for each in archive.infolist()}
        folder = next(iter(members)).partition("/")[0]
        plain = (
            len(members) == len(archive.infolist())
            and not archive.comment
            and data[-_EOCD:].startswith(b"PK\x05\x06")
            and min(each.header_offset for each in members.values()) == 0
            and all(each.compress_type == zipfile.ZIP_STORED for each in members.values())
            and members.keys() <= {f"{folder}/{name}" for name in (_PICKLE, *_BESIDE)}
            and all(members[n].file_size <= _VERSION for n in members if not n.endswith(_PICKLE))
        )
        if not plain:
            raise _OtherError
        return io.BytesIO(archive.read(f"{folder}/{_PICKLE}"))


class _Reader(pickle._Unpickler):
    """Python's own, which knows but the operations and names of a trace, and imports nothing."""

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], _Filled):  # type: ignore[attr-defined]
            raise _OtherError
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[Any] = {
        **{sign[0]: pickle._Unpickler.dispatch[sign[0]] for sign in _OPERATIONS},
        pickle.BUILD[0]: load_build,
    }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full in _RECORDS:
            return _Record(name, (_Filled,), {})
        if full in _CHOICES:
            return _Choices()
        if full in _DATA:
            return _DATA[full]
        raise _OtherError


class _Record(type):
    """A class that is not called: its constructor would run."""

    def __call__(cls, *_: Any) -> Any:
        raise _OtherError


def _choice(value: object, *kinds: type) -> _Choice:
    if type(value) not in kinds:
        raise _OtherError
    return _Choice()


def _device(kind: object, number: object = 0) -> _Choice:
    _choice(kind, str)
    return _choice(number, int)


def _member(of: object, name: object) -> _Choice:
    if not isinstance(of, _Choices) or not isinstance(name, str) or name.startswith("_"):
        raise _OtherError
    return _Choice()


_DATA: Final[dict[str, Callable[..., Any] | _Choice]] = {
    "torch.device": _device, _PICKED_BY_NAME: _member,
    "builtins.set": set, "collections.OrderedDict": OrderedDict,
    **{f"torch.{name}": _Choice() for name in DTYPES},
}  # fmt: skip
