"""A Hugging Face Hub on the loopback: what huggingface_hub asks of it for models, and no more."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from web import Handler, Web


class Hub(Web):
    """Models by commit: ``add`` makes one, ``move`` sets a branch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.commits: dict[tuple[str, str], Path] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.gated: set[str] = set()
        #: Model -> the commit that its branches move to once they have been asked for.
        self.moving: dict[str, str] = {}
        #: Called with what is said about a model, to change it.
        self.lie: Callable[[dict[str, Any]], None] = lambda said: None

    def add(self, repo: str, folder: Path, branch: str = "main") -> str:
        """Publish the files of ``folder`` as the tip of a branch; returns the commit."""
        commit = hashlib.sha1(f"{repo}{folder}".encode()).hexdigest()
        self.commits[repo, commit] = folder
        self.branches[repo, branch] = commit
        return commit

    def commit(self, repo: str, revision: str) -> str | None:
        if (repo, revision) in self.commits:
            return revision
        return self.branches.get((repo, revision))

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """For a command that shall use this Hub and that cache."""
        return {
            "HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **more,
        }  # fmt: skip


class HubHandler(Handler):
    web: ClassVar[Hub]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.web, self.path.partition("?")[0]
        with hub.lock:
            hub.asked.append((f"{self.command} {path}", self.headers.get("Range")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?/?", path):
            repo, kind, revision = match.groups()
            self._about(repo, kind, revision or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        else:
            self.answer(404, b"")

    def _about(self, repo: str, kind: str | None, revision: str) -> None:
        commit = self._found(repo, revision)
        if commit is None:
            return
        folder = self.web.commits[repo, commit]
        files = [_described(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]
        if kind == "tree":
            self._json([{"type": "file", **file} for file in files])
            return
        siblings = [
            {"rfilename": f["path"], "blobId": f["oid"], "size": f["size"], **_lfs(f)}
            for f in files
        ]  # fmt: skip
        if repo in self.web.moving:
            self.web.branches[repo, "main"] = self.web.moving[repo]
        said = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
        self.web.lie(said)
        self._json(said)

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        commit = self._found(repo, revision)
        if commit is None:
            return
        path = self.web.commits[repo, commit] / name
        if repo in self.web.gated:
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not path.is_file():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.send(path.read_bytes(), self.headers.get("Range"), cut=False)

    def _found(self, repo: str, revision: str) -> str | None:
        commit = self.web.commit(repo, revision)
        if commit is None:
            known = any(repo == name for name, _ in self.web.commits)
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        return commit

    def _json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def end_headers(self) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/.+", self.path.partition("?")[0])
        if match and (commit := self.web.commit(*match.groups())):
            self.send_header("X-Repo-Commit", commit)
        super().end_headers()


def _described(path: Path, folder: Path) -> dict[str, object]:
    content = path.read_bytes()
    name = path.relative_to(folder).as_posix()
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    described: dict[str, object] = {"path": name, "size": len(content), "oid": oid}
    if name.endswith((".safetensors", ".bin")):
        sha = hashlib.sha256(content).hexdigest()
        described["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
    return described


def _lfs(file: dict[str, object]) -> dict[str, object]:
    lfs = file.get("lfs")
    if not isinstance(lfs, dict):
        return {}
    return {"lfs": {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 130}}
