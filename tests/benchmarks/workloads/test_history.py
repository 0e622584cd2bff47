"""What is read of a repository."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.workloads.history import opened
from tests.support.repository import Repository


def test_commits_come_in_their_order_with_what_they_wrote(repository: Repository) -> None:
    first = repository.commit({"a.py": "1\n", "b.py": "2\n"}, at=100)
    second = repository.commit({"a.py": "3\n", "ü/c d.py": "4\n", "b.py": None}, at=200)
    third = repository.commit({"a.py": "5\n"}, at=300)
    with opened(repository.folder, "it", last=10) as history:
        text = history.blobs.text
        assert (history.head, history.begun) == (third, 100)
        assert {(change.path, text(change.new)) for change in history.before} == {("a.py", "1\n"), ("b.py", "2\n")}
        assert [commit.name for commit in history.commits] == [second, third] != [first]
        assert [
            [(change.path, text(change.old), text(change.new)) for change in commit.changes]
            for commit in history.commits
        ] == [[("a.py", "1\n", "3\n"), ("ü/c d.py", "", "4\n")], [("a.py", "3\n", "5\n")]]


def test_only_the_last_commits_are_read_and_what_was_there_before_them(repository: Repository) -> None:
    names = [repository.commit({f"{number}.py": str(number)}, at=number) for number in range(5)]
    with opened(repository.folder, "it", last=2) as history:
        assert [commit.name for commit in history.commits] == names[3:]
        assert {change.path for change in history.before} == {"0.py", "1.py", "2.py"}
    with opened(repository.folder, "it", last=2, revision=names[3]) as history:
        assert [commit.name for commit in history.commits] == names[2:4]


def test_merges_are_left_out(repository: Repository) -> None:
    repository.commit({"a.py": "1"}, at=1)
    repository.git("checkout", "--quiet", "-b", "other")
    other = repository.commit({"b.py": "2"}, at=2)
    repository.git("checkout", "--quiet", "main")
    main = repository.commit({"c.py": "3"}, at=3)
    repository.git("merge", "--quiet", "--no-ff", "--message=merge", "other", at=4)
    with opened(repository.folder, "it", last=10) as history:
        assert {commit.name for commit in history.commits} == {other, main}


def test_time_never_goes_back(repository: Repository) -> None:
    for at in (500, 900, 700, 1_000):
        repository.commit({"a.py": str(at)}, at=at)
    with opened(repository.folder, "it", last=10) as history:
        assert [commit.at for commit in history.commits] == [900, 900, 1_000]


def test_links_are_no_files_and_what_is_no_utf_8_can_be_sent(repository: Repository) -> None:
    repository.commit({"a.py": "1"}, at=1)
    (repository.folder / "link.py").symlink_to("a.py")
    repository.commit({"a.py": b"caf\xe9\r\nx"}, at=2)
    with opened(repository.folder, "it", last=10) as history:
        ((change,),) = (commit.changes for commit in history.commits)
        assert (change.path, history.blobs.text(change.new)) == ("a.py", "caf\ufffd\r\nx")


def test_what_is_no_revision_is_refused(repository: Repository) -> None:
    repository.commit({"a.py": "1"}, at=1)
    with pytest.raises(subprocess.CalledProcessError), opened(repository.folder, "it", last=10, revision="nothing"):
        pass
