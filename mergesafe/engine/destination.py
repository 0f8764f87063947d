"""Where a merged model goes: a folder, or a URL by way of a folder that is uploaded."""

from __future__ import annotations

from pathlib import Path

from mergesafe.checkpoint.output.staging import remove_abandoned
from mergesafe.checkpoint.output.target_checks import resolve
from mergesafe.checkpoint.output.upload import (
    check_upload,
    output_location,
    staging_folder,
    upload_folder,
)
from mergesafe.checkpoint.output.upload_folder import make_staging, remove_staged
from mergesafe.checkpoint.places.location import Location
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.resume.finished import is_finished
from mergesafe.recipe.documents import every_ref
from mergesafe.references import is_url, local_path, redact


class Destination:
    """``out`` of a merge. ``folder``: where the model is written on this machine."""

    def __init__(self, out: str | Path, *, overwrite: bool, resume: bool) -> None:
        text = local_path(str(out))
        self._url = text if is_url(text) else None
        self._overwrite, self._resume = overwrite, resume
        self._begun = False
        self.folder = Path(text) if self._url is None else staging_folder(self._url)
        self.place: Location = self.folder if self._url is None else output_location(self._url)

    @property
    def name(self) -> Path | str:
        """The folder, or the URL without what is secret in it."""
        return resolve(self.folder) if self._url is None else redact(self._url)

    @property
    def overwrite(self) -> bool:
        """Whether :attr:`folder` may be replaced: one that waits to be uploaded always."""
        return self._overwrite or self._url is not None

    def is_finished(self, plan: MergePlan, on_nonfinite: str) -> bool:
        """Whether a run that resumes has nothing to do.

        Raises:
            MergesafeError: another model is there.
        """
        if not self._resume or not is_finished(
            plan, self.place, on_nonfinite, overwrite=self._overwrite
        ):
            return False
        if self._url is None:
            remove_abandoned(resolve(self.folder))
        return True

    def prepare(self, plan: MergePlan, on_nonfinite: str) -> bool:
        """Check the URL; whether the model is merged already and only waits to be uploaded.

        Raises:
            OutputError: it cannot be uploaded there.
        """
        if self._url is None:
            return False
        make_staging(self.folder)
        # A model that waits to be uploaded is as good as a merge.
        self._begun = self._resume and is_finished(plan, self.folder, on_nonfinite, overwrite=True)
        check_upload(
            self._url, overwrite=self._overwrite, protect=_references(plan),
            begun=self.folder if self._begun else None,
        )  # fmt: skip
        return self._begun

    def deliver(self) -> None:
        """Upload the model to the URL, if there is one."""
        if self._url is not None:
            upload_folder(self.folder, self._url, self._overwrite, begun=self._begun)
            remove_staged(self.folder)


def _references(plan: MergePlan) -> list[str]:
    """What the recipe calls the inputs, adapters and calibration too."""
    refs = every_ref(plan.recipe)
    return [text for ref in refs for text in (ref.path, ref.adapter) if text is not None]
