"""What lies in a model's folder besides its weights: pickles, code, and settings that name code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.format.model import CONFIG_LIMIT, PICKLE_SUFFIXES
from mergesafe.checkpoint.places.location import Location, at, read_json_file, same_content
from mergesafe.checkpoint.places.within import check_within
from mergesafe.errors import CheckpointError
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.clock import Clock
from mergesafe.safety.vet.contents import Contents
from mergesafe.safety.vet.findings import listing
from mergesafe.safety.vet.pickles import ALL_SECONDS, look_through
from mergesafe.safety.vet.tree import Tree, walk
from mergesafe.untrusted import reason, show

_PICKLES: Final = (*PICKLE_SUFFIXES, ".pickle", ".joblib", ".ckpt")
_WEIGHTS: Final = ".safetensors"
_CODE: Final = (
    ".py", ".pyc", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".js", ".jar", ".whl",
)  # fmt: skip
#: Findings of one kind that are told one by one, and files that are compared with the base's.
_REPORTED: Final = 10
_COMPARED: Final = 100
_SETTINGS: Final = ("config.json", "tokenizer_config.json", "processor_config.json")


def check_folder(folder: Location, base: Location, clock: Clock | None = None) -> Iterator[Finding]:
    """Pickles, code and remote code in ``folder``; what the base has too is only a note."""
    seconds = (clock or Clock()).left(ALL_SECONDS)
    try:
        names, odd = _names(folder)
    except OSError as error:
        yield Finding("unfit", "files", f"cannot be listed ({reason(error)})", str(folder))
        return
    yield from odd
    if isinstance(folder, Path):
        yield from _pickles(look_through(folder, names, seconds))
    else:
        yield from _unseen([n for n in names if n.lower().endswith(_PICKLES)])
    code = [n for n in names if n.lower().endswith(_CODE)]
    known = [n for n in code[:_COMPARED] if _same(folder / n, base / n)]
    if new := sorted(set(code) - set(known)):
        yield Finding(
            "warning",
            "files",
            "holds code, which mergesafe never runs but tools that trust remote code do",
            listing(new),
        )
    if known:
        yield Finding("note", "files", "holds the same code as the base", listing(known))
    for name in _SETTINGS:
        yield from _remote_code(folder / name, base / name)


def read_settings(file: Location) -> dict[str, Any]:
    """The JSON object in ``file``; empty where there is none.

    Raises:
        CheckpointError: it is malformed.
    """
    return read_json_file(file, CONFIG_LIMIT) if at(file).present() else {}


def _names(folder: Location) -> tuple[list[str], list[Finding]]:
    """Files within the folder, of all below it where it is local; what could not be listed."""
    if isinstance(folder, Path):
        tree = walk(folder)
        return tree.files, [*_odd(tree), *_outside(folder, tree.files)]
    names = at(folder).names()
    if names is None:
        what = "the server lists no files: only known ones are read"
        return [], [Finding("note", "files", what, "-")]
    return names, []


def _odd(tree: Tree) -> Iterator[Finding]:
    """What no model has, and what was not looked at because of it."""
    if tree.special:
        what = "holds what are no files (pipes, devices, sockets), which programs wait for"
        yield Finding("unfit", "files", what, listing(_quoted(tree.special)))
    if tree.unread:
        what = "could not be listed, so what it holds is not known"
        yield Finding("unfit", "files", what, listing(_quoted(tree.unread)))
    if tree.links:
        what = "links to other folders, which were not looked into"
        yield Finding("warning", "files", what, listing(_quoted(tree.links)))
    if tree.dangling:
        what = "links to files that are not there"
        yield Finding("warning", "files", what, listing(_quoted(tree.dangling)))
    if tree.more:
        what = f"{tree.more}: not all of them were looked at, so what they hold is not known"
        yield Finding("unfit", "files", what, "-")


def _outside(folder: Path, names: Iterable[str]) -> Iterator[Finding]:
    """Files other than weights that lie elsewhere."""
    found = []
    for name in names:
        if (folder / name).is_symlink() and not name.endswith(_WEIGHTS):
            try:
                check_within(folder, folder / name)
            except CheckpointError:
                found.append(name)
    if found:
        what = (
            "links to files outside the model's folder, which merge, evaluate and tune refuse of "
            "configuration, tokenizer and templates"
        )
        yield Finding("warning", "files", what, listing(_quoted(found)))


def _pickles(found: Mapping[str, Contents]) -> Iterator[Finding]:
    plain, closed, traces = [], [], []
    problems: dict[str, list[str]] = {}
    runs: dict[tuple[str, ...], list[str]] = {}
    for name, each in found.items():
        if each.trace:
            traces.append(name)
        elif each.imports:
            runs.setdefault(tuple(each.imports), []).append(name)
        elif each.problem:
            problems.setdefault(each.problem, []).append(name)
        elif each.pickle:
            plain.append(name)
        if each.closed:
            closed.append(name)
    for imports, names in list(runs.items())[:_REPORTED]:
        what = f"pickle that runs {listing(_quoted(imports))} when loaded"
        yield Finding("unfit", "files", what, listing(_quoted(names)))
    for problem, names in list(problems.items())[:_REPORTED]:
        what = f"file of which nothing can be told: {_quoted([problem])[0]}"
        yield Finding("unfit", "files", what, listing(_quoted(names)))
    if (more := len(runs) + len(problems) - 2 * _REPORTED) > 0:
        what = f"{more} more kinds of such files"
        yield Finding("unfit", "files", what, "-")
    if closed:
        what = "compressed in a way that is not looked into, so what it holds is not known"
        unfit = any(name.lower().endswith(_PICKLES) for name in closed)
        yield Finding("unfit" if unfit else "warning", "files", what, listing(_quoted(closed)))
    if traces:
        what = (
            "the settings of a training, a pickle that makes objects of transformers when loaded, "
            "and nothing else; no model needs it: delete it"
        )
        yield Finding("warning", "files", what, listing(_quoted(traces)))
    if plain:
        yield Finding(
            "warning",
            "files",
            "pickles, which can run code when loaded; mergesafe reads safetensors only",
            listing(_quoted(plain)),
        )


def _unseen(names: list[str]) -> Iterator[Finding]:
    """Pickles that lie elsewhere."""
    if names:
        what = (
            "pickles, which can run code when loaded and were not looked into, since they are not "
            "on this machine; mergesafe reads safetensors only"
        )
        yield Finding("warning", "files", what, listing(_quoted(names)))


def _quoted(names: Iterable[str]) -> list[str]:
    """Names of strangers, short and printable."""
    return [show(name)[1:-1] for name in names]


def _remote_code(file: Location, base: Location) -> Iterator[Finding]:
    try:
        settings = read_settings(file)
    except CheckpointError as error:
        yield Finding("unfit", "files", str(error), file.name)
        return
    mapped = settings.get("auto_map")
    if mapped:
        try:
            known = read_settings(base).get("auto_map") == mapped
        except CheckpointError:
            known = False
        elsewhere = " of another repository" if "--" in str(mapped) else ""
        what = (
            f"names remote code{elsewhere} (auto_map: {show(mapped)}), which mergesafe never runs"
        )
        yield Finding("note" if known else "warning", "files", what, file.name)
    if settings.get("trust_remote_code"):
        what = "asks for trust_remote_code, which is the user's to give"
        yield Finding("warning", "files", what, file.name)


def _same(first: Location, second: Location) -> bool:
    try:
        return at(second).present() and same_content(first, second)
    except CheckpointError:
        return False
