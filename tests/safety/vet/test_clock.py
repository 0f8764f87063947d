"""One model has so much time, whatever kinds of slow files it brings together."""

from __future__ import annotations

from pathlib import Path

from mergesafe.safety.vet.clock import SECONDS, Clock
from mergesafe.safety.vet.folder import check_folder
from mergesafe.safety.vet.pickles import ALL_SECONDS, NO_TIME
from mergesafe.safety.vet.templates import ALL_SECONDS as ALL_TEMPLATES
from mergesafe.safety.vet.templates import check_template


def test_what_one_kind_took_another_has_not() -> None:
    assert max(ALL_SECONDS, ALL_TEMPLATES) < SECONDS < 25
    assert Clock(5.0).left(ALL_SECONDS) <= 5.0
    assert Clock().left(3.0) == 3.0


def test_of_what_had_no_time_the_verdict_says_so(tmp_path: Path) -> None:
    folder, base = tmp_path / "model", tmp_path / "base"
    base.mkdir()
    folder.mkdir()
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    over = Clock(0.0)
    [file] = check_folder(folder, base, over)
    assert file.severity == "unfit"
    assert NO_TIME in file.what
    [template] = check_template(folder, base, over)
    assert template.severity == "unfit"
    assert "not looked at" in template.what
