"""The requests of each commit."""

from __future__ import annotations

import pytest

from benchmarks.workloads import requests
from benchmarks.workloads.chunks import USUAL
from benchmarks.workloads.diagnostics import diagnose
from benchmarks.workloads.history import opened
from benchmarks.workloads.requests import Asked
from tests.support.repository import Repository

ONE, OTHER, NEW = "def one():\n    return 1\n", "def other():\n    return 2\n", "def other():\n    return 3\n"
ALONE = requests.USUAL_EXPLANATION


def test_a_changed_file_is_one_list_of_all_its_chunks(repository: Repository) -> None:
    repository.commit({"a.py": f"{ONE}\n\n{OTHER}", "b.py": ONE, "c.md": "# c"}, at=1)
    repository.commit({"a.py": f"{ONE}\n\n{NEW}", "c.md": "# d", "empty.py": ""}, at=2)
    with opened(repository.folder, "it", last=9) as history:
        before, asked = requests.embeds(history, USUAL)
    assert [one.texts for one in before] == [(ONE.strip(), OTHER.strip()), (ONE.strip(),)]
    assert asked == [Asked(at=2, category="embed", texts=(ONE.strip(), NEW.strip()))]


def test_of_a_changed_function_the_old_text_is_asked_about_and_then_the_new_one(repository: Repository) -> None:
    repository.commit({"a.py": f"{ONE}\n\n{OTHER}"}, at=1)
    repository.commit({"a.py": f"# moved\n\n{NEW}\n\n{ONE}\n\ndef new(): ...\n"}, at=2)
    with opened(repository.folder, "it", last=9) as history:
        asked = requests.explanations(history, ALONE, 1)
        assert [one.texts[0].partition("\n\n")[2] for one in asked] == [OTHER.strip(), NEW.strip(), "def new(): ..."]
        assert requests.explanations(history, ALONE, 2) == [one for one in asked for _ in range(2)]
        with_lines = requests.explanations(history, "its path and line on top", 1)
        assert "\n\na.py:3\ndef other" in with_lines[1].texts[0]


def test_only_what_the_linter_newly_says_is_asked_about(repository: Repository) -> None:
    bad = "import os\n"
    repository.commit({"a.py": bad, "b.md": "import os\n"}, at=1)
    repository.commit({"a.py": f"x = 1\n{bad}"}, at=2)  # moved, not new
    repository.commit({"a.py": f"x = 1\n{bad}import sys\n\ny = 2\n"}, at=3)
    with opened(repository.folder, "it", last=9) as history:
        said = diagnose(requests.linted(history), history.blobs)
        asked = {shape: requests.fixes(history, said, shape) for shape in requests.FIXES}
    about_sys = "`sys` imported but unused"
    by_rule = {shape: [one.texts[0] for one in every if about_sys in one.texts[0]] for shape, every in asked.items()}
    assert {len(texts) for texts in by_rule.values()} == {1}
    assert not any("`os`" in one.texts[0] for one in asked["the message"])
    assert by_rule["the message"][0].endswith(about_sys)
    assert by_rule["message and line"][0].endswith(f"{about_sys}\nimport sys")
    assert f"a.py:3: {about_sys}" in by_rule["message, line and where it is"][0]
    assert by_rule["message and 3 lines around"][0].endswith(f"{about_sys}\nx = 1\nimport os\nimport sys\n\ny = 2\n")


def test_requests_come_back_from_jsonl_as_they_were() -> None:
    before = [Asked(at=1, category="embed", texts=("é", "b"))]
    asked = [Asked(at=2, category="explain", texts=("why\n",)), Asked(at=3, category="embed", texts=("b",))]
    lines = [requests.line(one, counted=False) for one in before] + [requests.line(one, counted=True) for one in asked]
    assert requests.read(lines) == (before, asked)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


@pytest.mark.parametrize(
    ("category", "path", "body"),
    [
        ("embed", "/api/embed", b'{"model":"all-minilm","input":["a"]}'),
        ("explain", "/api/generate", b'{"model":"explains","prompt":"a","stream":false}'),
        ("fix", "/api/generate", b'{"model":"fixes","prompt":"a","stream":false}'),
    ],
)
def test_a_request_says_what_the_cache_reuses(category: str, path: str, body: bytes) -> None:
    asked = Asked(at=0, category=category, texts=("a",))
    assert (asked.path, asked.body()) == (path, body)


def test_workloads_are_put_together_by_time() -> None:
    a, b, c = (Asked(at=at, category="fix", texts=(str(at),)) for at in (1, 2, 3))
    also = Asked(at=2, category="embed", texts=("x",))
    assert requests.together([a, c], [b], [also]) == [a, b, also, c]
