"""The configuration of Prometheus is valid, each rule does what its unit test says, and each alert says what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ollama_cache_proxy.gpu.exposition import METRICS as GPU_METRICS
from ollama_cache_proxy.telemetry.metrics import Metrics
from tests.support.prometheus import ROOT, RULES, compared, found, names

HERE = Path(__file__).parent
CONFIG = ROOT / "config" / "prometheus" / "prometheus.yml"
UNIT_TESTS = sorted(HERE.glob("*.test.yml"))
RECORDS = re.findall(r"- record: (\S+)", "".join(file.read_text("utf-8") for file in RULES))
ALERTS = re.findall(r"- alert: (\w+)\n(.*?)(?=\n\n|\Z)", "".join(file.read_text("utf-8") for file in RULES), re.DOTALL)
KNOWN = (
    {metric.name for metric in Metrics().described()}
    | {f"{metric.name}_bucket" for metric in Metrics().described() if metric.kind == "histogram"}
    | {metric.name for metric in GPU_METRICS}
    | {"up", *RECORDS}
)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_its_rules_are_valid(promtool: str) -> None:
    assert "2 rule files found" in run(promtool, "check", "config", str(CONFIG))


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name)
def test_the_rules_do_what_their_unit_tests_say(file: Path, promtool: str) -> None:
    run(promtool, "test", "rules", str(file))


def test_every_rule_has_a_unit_test() -> None:
    tested = "".join(file.read_text("utf-8") for file in UNIT_TESTS)
    alerts = [name for name, _ in ALERTS]
    assert (len(RECORDS), len(alerts)) == (len(set(RECORDS)), len(set(alerts)))
    assert [name for name in RECORDS if f"{name}{{" not in tested and f"{name})" not in tested] == []
    assert [name for name in alerts if not re.search(rf'alertname(=|: )"?{name}\b', tested)] == []


def test_rules_read_what_there_is() -> None:
    for file in RULES:
        text = re.sub(
            r"^ *#.*$|^ *(summary|description|action|runbook): .*$", "", file.read_text("utf-8"), flags=re.MULTILINE
        )
        assert names(text) - KNOWN == set(), file.name


@pytest.mark.parametrize(("name", "body"), ALERTS, ids=[name for name, _ in ALERTS])
def test_every_alert_says_what_to_do_and_where_the_rest_stands(name: str, body: str) -> None:
    told = dict(re.findall(r"^ +(severity|summary|description|action|runbook): (.+)$", body, re.MULTILINE))
    assert set(told) == {"severity", "summary", "description", "action", "runbook"}
    assert told["severity"] in ("critical", "warning")
    page, _, anchor = told["runbook"].partition("#")
    sections = re.findall(r"^## (\w+)$\n+(.*?)(?=^## |\Z)", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert anchor == name.lower()
    assert [heading for heading, text in sections if heading == name and "\n1. " in text] == [name]


def test_the_runbook_has_no_section_that_no_alert_leads_to() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "runbook.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(name for name, _ in ALERTS)


def test_an_alert_is_asked_without_its_thresholds() -> None:
    assert compared('a{x!="y"} < 0.5 * b and c >= 1') == 'a{x!="y"} < bool 0.5 * b and c >= bool 1'
    assert compared("up == 1 unless on (job) c") == "up == bool 1 and on (job) c"


@pytest.mark.parametrize(("ci", "end"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_prometheus(ci: str, end: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(end, match="no promtool"):
        found("promtool")
