"""Models on the Hugging Face Hub, through huggingface_hub.

A reference is resolved once, to a commit: a branch that moves cannot mix two versions. Until
:meth:`HubStore.download`, headers of shards are read by ranges and small files through the cache;
afterwards everything comes from the cache. HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME, HF_HUB_CACHE and
the token mean what huggingface_hub says they mean.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.places.file_system import why
from mergesafe.checkpoint.places.files import OpenFile
from mergesafe.checkpoint.places.hub_listing import HubFile, check_commit, check_revision, listing
from mergesafe.checkpoint.places.location import at
from mergesafe.checkpoint.places.remote import (
    PassingError,
    RemoteError,
    RemoteFile,
    RemotePath,
    retried,
    within,
)
from mergesafe.errors import CheckpointError, OutputError
from mergesafe.extras import install
from mergesafe.regular_file import read_regular
from mergesafe.version import __version__
from mergesafe.whole_file import write_whole

#: A snapshot in the cache is found by one of these.
_LANDMARKS: Final = (
    "model.safetensors.index.json", "model.safetensors", "adapter_config.json", "config.json",
)  # fmt: skip
_WEIGHTS: Final = ".safetensors"
#: Bytes of a file that is no weights: the largest tokenizers have a tenth.
LARGEST_OTHER: Final = 512 << 20


@dataclass(frozen=True, eq=False)
class HubStore:
    """The files of ``repo`` at ``commit``, the tip of ``revision`` when it was resolved.

    ``text`` is the reference as it was written.
    """

    repo: str
    revision: str
    commit: str
    text: str
    files: Mapping[str, HubFile] = field(repr=False)

    def exists(self, name: str) -> bool:
        return name in self.files or self.is_dir(name)

    def is_dir(self, name: str) -> bool:
        return not name or any(file.startswith(f"{name}/") for file in self.files)

    def names(self, name: str) -> list[str] | None:
        prefix = f"{name}/" if name else ""
        inside = (file.removeprefix(prefix) for file in self.files if file.startswith(prefix))
        return sorted({file.partition("/")[0] for file in inside})

    def open(self, name: str) -> OpenFile:
        """From the cache if it is there; weights by ranges, other files by way of the cache."""
        size = self._file(name).size
        cached = self.cached(name)
        if cached is None and name.endswith(_WEIGHTS):
            return RemoteFile(
                size, lambda begin, end: retried(lambda: self._range(name, begin, end))
            )
        if cached is None:
            cached = self._small(name, size)
        return at(cached).open()

    def _small(self, name: str, size: int) -> Path:
        """The file in the cache, where it is put if the Hub still says that it has that size."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        if size > LARGEST_OTHER:
            raise CheckpointError(
                f"{self.text}/{name}: the Hub says that this file has {size:,} bytes; of files "
                f"beside the weights, mergesafe fetches at most {LARGEST_OTHER:,}. Download the "
                "model yourself and give its folder."
            )

        url = hf_hub_url(self.repo, name, revision=self.commit)
        with _failures(self.text):
            now = within(lambda: get_hf_file_metadata(url).size)
        if now != size:
            raise CheckpointError(
                f"{self.text}/{name}: the Hub first said that this file has {size:,} bytes, then "
                f"{now or 0:,}. Run again, or give the model's folder."
            )
        with _failures(self.text):
            return Path(
                within(lambda: hf_hub_download(self.repo, name, revision=self.commit), size)
            )

    def fingerprint(self, name: str) -> dict[str, Any]:
        file = self._file(name)
        return {"size": file.size, **file.hashes, "commit": self.commit}

    def cached(self, name: str) -> Path | None:
        """Where the file lies in the cache, complete, or None."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def missing(self, names: Iterable[str]) -> dict[str, int]:
        """Those of ``names`` that are not in the cache, and their sizes in bytes."""
        return {name: self._file(name).size for name in names if self.cached(name) is None}

    def download(self, names: Iterable[str]) -> None:
        """Bring the files into the cache, and nothing else; it then knows the revision too.

        Raises:
            CheckpointError: the Hub refuses, cannot be reached, or sent something else.
        """
        from huggingface_hub import snapshot_download

        wanted = sorted(names)
        if wanted:
            patterns = [glob.escape(name) for name in wanted]
            with _failures(self.text):
                snapshot_download(self.repo, revision=self.commit, allow_patterns=patterns)
        for name in wanted:
            path, size = self.cached(name), self.files[name].size
            if path is None or path.stat().st_size != size:
                raise CheckpointError(
                    f"{self.text}/{name}: the downloaded file does not have the {size:,} bytes "
                    "that the Hub names. Remove it from the cache and run again."
                )
        self._remember()

    def _remember(self) -> None:
        """Note the revision's commit in the cache, as huggingface_hub does, to find it offline."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        if self.revision == self.commit:
            return
        folder = repo_folder_name(repo_id=self.repo, repo_type="model")
        path = Path(constants.HF_HUB_CACHE, folder, "refs", self.revision)
        with suppress(OSError):
            if read_regular(path, len(self.commit)) == self.commit.encode():
                return
        # A cache that others filled and that this user only reads does without.
        with suppress(OSError, OutputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, self.commit)

    def _file(self, name: str) -> HubFile:
        file = self.files.get(name)
        if file is None:
            raise CheckpointError(f"{self.text}/{name}: the model has no such file.")
        return file

    def _range(self, name: str, begin: int, end: int) -> bytes:
        from huggingface_hub import HfFileSystem
        from huggingface_hub.errors import HfHubHTTPError

        path = f"{self.repo}@{self.commit}/{name}"
        try:
            with _failures(self.text, named_only=True):
                data: bytes = within(
                    lambda: HfFileSystem().cat_file(path, begin, end, cache_type="none"),
                    end - begin,
                )
        except CheckpointError:
            raise
        except FileNotFoundError:
            raise RemoteError("the file is no longer on the Hub") from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            kind = PassingError if status == 429 or status >= 500 else RemoteError
            raise kind(f"HTTP {status}") from None
        except Exception as error:  # of the HTTP library, which differs between versions
            raise PassingError(why(error)) from None
        if len(data) != end - begin:
            raise RemoteError(
                f"asked for {end - begin:,} bytes, got {len(data):,}: does the server support "
                "range requests?"
            )
        return data


def open_hub(repo: str, revision: str | None, text: str) -> Path | RemotePath:
    """The model ``repo`` at ``revision`` (default: its main branch), headers not yet read.

    Without a connection it is a folder of the cache, if that has it.

    Raises:
        CheckpointError: there is no such model or revision, it is not open to you, or the Hub
            cannot be reached and the cache does not have it.
    """
    check_revision(revision, text)
    try:
        from huggingface_hub import HfApi, constants
    except ImportError:
        raise CheckpointError(
            f"{text}: no such file or folder. If it is a model on the Hugging Face Hub: run "
            f"{install('hub')} to read it from there."
        ) from None
    if constants.HF_HUB_OFFLINE:
        return _snapshot(repo, revision, text, "HF_HUB_OFFLINE is set")
    api = HfApi(library_name="mergesafe", library_version=__version__)
    try:
        with _failures(text, named_only=True):
            info = within(lambda: api.model_info(repo, revision=revision, files_metadata=True))
    except CheckpointError:
        raise
    except Exception as error:  # of the HTTP library, which differs between versions
        return _snapshot(repo, revision, text, f"the Hub cannot be asked ({why(error)})")
    files, commit = listing(info.siblings, text), check_commit(info.sha, text)
    return RemotePath(HubStore(repo, revision or "main", commit, text, files))


def check_space(missing: Iterable[int]) -> None:
    """Check that the cache's disk has room for files of these sizes.

    Raises:
        CheckpointError: it has not.
    """
    from huggingface_hub import constants

    cache, needed = Path(constants.HF_HUB_CACHE), sum(missing)
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CheckpointError(
            f"{cache}: the models to download take {needed:,} bytes, but only {free:,} are free "
            f"there ({needed - free:,} too few). Free space, or set HF_HUB_CACHE to another disk."
        )


@contextmanager
def silent_bars(silent: bool) -> Iterator[None]:
    """huggingface_hub shows no progress bars inside the block, if ``silent``."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if not silent or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _snapshot(repo: str, revision: str | None, text: str, problem: str) -> Path:
    """The folder of the cache that holds the model."""
    from huggingface_hub import try_to_load_from_cache

    for name in _LANDMARKS:
        found = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    raise CheckpointError(
        f"{text}: no such file or folder; as a model on the Hugging Face Hub it is not in the "
        f"cache, and {problem}. Check the spelling, or download it while there is a connection."
    )


@contextmanager
def _failures(text: str, *, named_only: bool = False) -> Iterator[None]:
    """Turn the failures of huggingface_hub that have a name, or all of them, into ours."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError:
        problem = (
            f"access to this model is restricted. Ask for it on its page at {hub} and "
            "set HF_TOKEN, or run 'hf auth login'."
        )
    except errors.RepositoryNotFoundError:
        problem = (
            f"no such file or folder here, and {hub} has no such model, or it is private. Check "
            "the spelling; for a private model set HF_TOKEN or run 'hf auth login'."
        )
    except errors.RevisionNotFoundError:
        problem = f"the model is on {hub}, but has no such revision. Check what follows the '@'."
    except errors.HFValidationError:
        problem = "no such file or folder, and not a valid name of a model on the Hub."
    except Exception as error:
        if named_only:
            raise
        problem = f"the Hub did not send it ({why(error)}). Check the connection and run again."
    else:
        return
    raise CheckpointError(f"{text}: {problem}") from None
