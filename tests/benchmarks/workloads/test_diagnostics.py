"""The diagnostics of each version of a file."""

from __future__ import annotations

from benchmarks.workloads.diagnostics import diagnose, version
from benchmarks.workloads.history import opened
from tests.support.repository import Repository


def test_each_version_has_its_own_diagnostics(repository: Repository) -> None:
    repository.commit({"pack/__init__.py": "x = 1\n"}, at=1)
    repository.commit({"pack/__init__.py": "import os\n\n  # é\nimport sys\n"}, at=2)
    repository.commit({"pack/__init__.py": "def broken(:\n"}, at=3)
    with opened(repository.folder, "it", last=9) as history:
        changes = [change for commit in history.commits for change in commit.changes]
        said = diagnose(changes, history.blobs)
        clean, unused, broken = (said[blob] for blob in (changes[0].old, changes[0].new, changes[1].new))
    assert clean == ()
    assert [(one.code, one.row, one.line) for one in unused if "imported but unused" in one.message] == [
        ("F401", 1, "import os"),
        ("F401", 4, "import sys"),
    ]
    assert "def broken(:" in {one.line for one in broken}


def test_nothing_is_said_of_nothing(repository: Repository) -> None:
    repository.commit({"a.py": "import os\n"}, at=1)
    with opened(repository.folder, "it", last=9) as history:
        assert diagnose([], history.blobs) == {}
    assert version().startswith("ruff ")
