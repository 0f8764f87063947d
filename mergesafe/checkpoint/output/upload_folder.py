"""The folder in which models wait to be uploaded: this user's alone, since what lies there goes out
under the user's name.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from mergesafe.errors import OutputError
from mergesafe.private import folder_of, remove_tree
from mergesafe.private_folder import make_private
from mergesafe.untrusted import reason


def make_staging(model: Path) -> None:
    """Make the folder that ``model`` is to lie in, by :func:`upload.staging_folder`.

    Raises:
        OutputError: it cannot be made, is somebody else's, or others may write to it.
    """
    try:
        make_private(model.parent)
    except OSError as error:
        raise OutputError(
            f"{model.parent}: models cannot wait there to be uploaded ({reason(error)}). Set "
            "MERGESAFE_STAGING to a folder that is yours alone."
        ) from error


def remove_staged(model: Path) -> None:
    """Remove a model that is uploaded; a warning says where that fails."""
    try:
        with folder_of(model) as folder:
            remove_tree(model.name, folder)
    except OSError as error:
        warnings.warn(f"{model}: could not be removed ({error}); remove it by hand", stacklevel=2)
