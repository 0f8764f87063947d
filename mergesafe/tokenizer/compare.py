"""Whether the tokenizers of two models give every token the same id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mergesafe.checkpoint.places.location import Location, at, same_content
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.tokenizer.vocabulary import (
    ADDED_TOKENS,
    KINDS,
    PLAIN_KINDS,
    TOKENIZER_CONFIG,
    added_tokens,
    read_vocabulary,
    with_added,
)
from mergesafe.untrusted import show

#: Tokens that a message lists before it only counts.
SHOWN: Final = 3
#: Words in names of tokens that vocabularies keep for later use.
_RESERVED: Final = ("reserved", "unused", "dummy", "placeholder", "<special_", "<|extra_")


@dataclass(frozen=True)
class Differences:
    """Where two vocabularies part. ``ours`` is the model asked about, ``theirs`` the reference."""

    #: (token, our id, their id) of tokens that both have.
    moved: tuple[tuple[str, int, int], ...] = ()
    #: (id, our token, their token) of tokens of ours in the place of one of theirs.
    renamed: tuple[tuple[int, str, str], ...] = ()
    #: Tokens of one side at ids that the other has no token for.
    added: tuple[tuple[str, int], ...] = ()
    missing: tuple[tuple[str, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.moved or self.renamed or self.added or self.missing)

    @property
    def filled(self) -> tuple[tuple[int, str, str], ...]:
        """Renamed tokens of which one is reserved, so that only the other was ever trained."""
        return tuple(each for each in self.renamed if _reserved(each[1]) or _reserved(each[2]))

    @property
    def exchanged(self) -> tuple[tuple[int, str, str], ...]:
        """Renamed tokens that are both in use."""
        filled = {index for index, _, _ in self.filled}
        return tuple(each for each in self.renamed if each[0] not in filled)

    @property
    def conflict(self) -> bool:
        """Whether an id means one token here and another one there."""
        return bool(self.moved or self.exchanged)


@dataclass(frozen=True)
class Files:
    """A folder's tokenizer: the names that lie there, and its vocabulary files by kind."""

    folder: Location
    names: frozenset[str]
    kinds: Mapping[str, str]

    def vocabulary(self, kind: str) -> dict[str, int]:
        """Token -> id by the file of this kind and what the other files add.

        Raises:
            CheckpointError: a file cannot be read or holds no vocabulary.
        """
        found = read_vocabulary(self.folder / self.kinds[kind], kind)
        return with_added(found, added_tokens(self.folder, self.names), kind)


def tokenizer_files(folder: Location) -> Files:
    """What lies in ``folder``; nothing where it is a file or cannot be listed."""
    names = _names(folder)
    kinds: dict[str, str] = {}
    for kind in KINDS:
        if not kind.startswith("."):
            found = [kind] if kind in names else []
        else:
            found = sorted(name for name in names if name.endswith(kind))
        if found:
            kinds[kind] = found[0]
    return Files(folder, names, kinds)


def compare_files(ours: Files, theirs: Files) -> Differences:
    """Where the two tokenizers part; equal files are not parsed.

    Raises:
        CheckpointError: they cannot be compared; the message says why, without advice.
    """
    if same_files(ours, theirs):
        return Differences()
    found = compare(*vocabularies(ours, theirs))
    if _common_kind(ours, theirs) is not None:
        return found
    # A plain file may lack the special tokens that a program adds to it, so only tokens that both
    # know can contradict each other.
    return Differences(found.moved, found.renamed)


def vocabularies(ours: Files, theirs: Files) -> tuple[dict[str, int], dict[str, int]]:
    """Token -> id of both, by the first kind of file that both have, else by plain ones.

    Raises:
        CheckpointError: they cannot be read, or number tokens in different ways; without advice.
    """
    kind = _common_kind(ours, theirs)
    if kind is not None:
        return ours.vocabulary(kind), theirs.vocabulary(kind)
    one = next((kind for kind in PLAIN_KINDS if kind in ours.kinds), None)
    two = next((kind for kind in PLAIN_KINDS if kind in theirs.kinds), None)
    if one is None or two is None:
        first, second = (next(iter(each.kinds.values())) for each in (ours, theirs))
        raise CheckpointError(f"{first} and {second} number tokens in different ways")
    return ours.vocabulary(one), theirs.vocabulary(two)


def _common_kind(ours: Files, theirs: Files) -> str | None:
    """The first kind of file that both have."""
    return next((kind for kind in KINDS if kind in ours.kinds and kind in theirs.kinds), None)


def same_files(ours: Files, theirs: Files) -> bool:
    """Whether the first kind of file that both have is the same, and what other files add.

    Nothing large is parsed: files that differ may still give every token the same id.
    """
    if ours.folder == theirs.folder:
        return True
    kind = _common_kind(ours, theirs)
    if kind is None:
        return False
    one, two = ours.folder / ours.kinds[kind], theirs.folder / theirs.kinds[kind]
    return same_content(one, two) and _same_additions(ours, theirs)


def other_conflicts(ours: Files, theirs: Files) -> list[str]:
    """Files beside the one that :func:`compare_files` looks at, by which ids do not mean the same.

    Loaders take the first kind, other programs (llama.cpp, say) another one. What cannot be read
    is left out.
    """
    common = [kind for kind in KINDS if kind in ours.kinds and kind in theirs.kinds]
    found = []
    for kind in common[1:] if ours.folder != theirs.folder else ():
        one, two = ours.folder / ours.kinds[kind], theirs.folder / theirs.kinds[kind]
        try:
            if (
                not same_content(one, two)
                and compare(read_vocabulary(one, kind), read_vocabulary(two, kind)).conflict
            ):
                found.append(ours.kinds[kind])
        except UnreadableError:
            raise
        except CheckpointError:
            continue
    return found


def compare(ours: Mapping[str, int], theirs: Mapping[str, int]) -> Differences:
    """Where two vocabularies, token -> id, part; tokens in the order of ``ours``."""
    if ours == theirs:
        return Differences()
    taken = {index: token for token, index in theirs.items()}
    used = set(ours.values())
    moved, renamed, added = [], [], []
    for token, index in ours.items():
        known = theirs.get(token)
        if known is not None:
            if known != index:
                moved.append((token, index, known))
        elif index in taken:
            renamed.append((index, token, taken[index]))
        else:
            added.append((token, index))
    missing = [(t, index) for t, index in theirs.items() if t not in ours and index not in used]
    return Differences(tuple(moved), tuple(renamed), tuple(added), tuple(missing))


def tokens_shown(tokens: tuple[tuple[str, int], ...]) -> str:
    """``"'<x>' (50), '<y>' (51) and 4 more"``."""
    named = ", ".join(f"{show(token)} ({index})" for token, index in tokens[:SHOWN])
    more = len(tokens) - SHOWN
    return f"{named} and {more:,} more" if more > 0 else named


def _reserved(token: str) -> bool:
    lowered = token.lower()
    return any(word in lowered for word in _RESERVED)


def _names(folder: Location) -> frozenset[str]:
    if not at(folder).is_dir():
        return frozenset()
    listed = at(folder).names()
    if listed is not None:
        return frozenset(listed)
    # A server that lists nothing is asked for each name that has one.
    wanted = [*(kind for kind in KINDS if not kind.startswith(".")), ADDED_TOKENS, TOKENIZER_CONFIG]
    return frozenset(name for name in wanted if at(folder / name).present())


def _same_additions(ours: Files, theirs: Files) -> bool:
    """Whether the files beside two equal vocabularies add the same tokens."""
    names = (ADDED_TOKENS, TOKENIZER_CONFIG)
    if all(_same_file(name, ours, theirs) for name in names):
        return True
    return added_tokens(ours.folder, ours.names) == added_tokens(theirs.folder, theirs.names)


def _same_file(name: str, ours: Files, theirs: Files) -> bool:
    if (name in ours.names) != (name in theirs.names):
        return False
    return name not in ours.names or same_content(ours.folder / name, theirs.folder / name)
