"""A small Git repository of a test's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class Repository:
    """Commits files at times that the test names, whoever runs it and however their Git is set up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, at: int = 0) -> str:
        who = {f"GIT_{role}_{what}": "a@b.invalid" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        dates = {f"GIT_{role}_DATE": f"@{at} +0000" for role in ("AUTHOR", "COMMITTER")}
        alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        command = ("git", "-C", str(self.folder), *arguments)
        environment = {"PATH": os.environ["PATH"]} | who | dates | alone
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def commit(self, files: dict[str, str | bytes | None], at: int) -> str:
        """Write files (None removes one) and commit; gives the commit's name."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.git("add", "--all", at=at)
        self.git("commit", "--quiet", "--allow-empty", "--message=x", at=at)
        return self.git("rev-parse", "HEAD")
