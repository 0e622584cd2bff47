from __future__ import annotations

from ollama_cache_proxy.workbench.sheet import Sheet, markdown


def test_markdown_is_a_table_for_the_eye_too() -> None:
    text = markdown(Sheet(columns=("Operation", "Hit"), rows=[("Completion", "1.2 ms"), ("a|b", "–")]))
    assert text.splitlines() == [
        "| Operation  |    Hit |",
        "| ---------- | -----: |",
        "| Completion | 1.2 ms |",
        "| a\\|b       |      – |",
    ]
