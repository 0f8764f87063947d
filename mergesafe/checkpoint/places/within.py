"""Which files belong to a model: links out of its folder would publish somebody's other files.

``vocab.txt`` may be a link to a key or a password, whoever made the folder, and what it leads to
would end in the merged model. Only two kinds of links are followed: those within the model's own
folder, and those to the Hub's cache. There a model's folder has links to the blobs of the same
repository, and older clients made folders elsewhere with links to blobs, which are named by the
digest of their content: whoever names one knows it. The folder itself may be reached through links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from mergesafe.errors import CheckpointError
from mergesafe.untrusted import show

#: What reading the file would lead to, at the end of a sentence.
MERGED: Final = "would become part of the merged model"
READ: Final = "would be taken for the model's own"
#: Folders of repositories in the Hub's cache.
_REPOSITORIES: Final = ("models--", "datasets--", "spaces--")
_BLOBS: Final = "blobs"
#: SHA-1 of a small file, SHA-256 of a large one.
_DIGEST: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def check_within(folder: Path, file: Path, use: str = MERGED) -> None:
    """Refuse ``file`` of the model in ``folder`` when it leads elsewhere.

    Raises:
        CheckpointError: it does; says where to, and what to do.
    """
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(file))
    if real.is_relative_to(home) or _is_blob(home, real):
        return
    raise CheckpointError(
        f"{file}: a link to {show(str(real))}, outside the model's folder: the content of that "
        f"file {use}. If it belongs to the model, copy the file to the place of the link; else "
        "remove the link."
    )


def _is_blob(home: Path, real: Path) -> bool:
    """Whether ``real`` is a blob of the Hub's cache: any that is named by its digest, or one of the
    repository that ``home`` is a snapshot of.
    """
    if _DIGEST.fullmatch(real.name) and real.parent.name == _BLOBS:
        return real.parent.parent.name.startswith(_REPOSITORIES)
    for place in (home, *home.parents):
        repository = place.parent.parent
        if place.parent.name == "snapshots" and repository.name.startswith(_REPOSITORIES):
            return real.parent == repository / _BLOBS
    return False
