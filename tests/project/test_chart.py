"""The Helm chart: what it renders is valid, refuses what cannot work, and fits the proxy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from ollama_cache_proxy.service.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "docker" / "helm"
HELM = Path(sys.executable).with_name("helm")
VERSION = "1.33"
REDIS = ("redis.url=redis://redis:6379/0",)
OPERATOR = ("PrometheusRule", "ServiceMonitor", "ScaledObject")
"""Kinds that are not Kubernetes' own."""
ALL = (
    *REDIS,
    *(f"metrics.{name}.enabled=true" for name in ("serviceMonitor", "prometheusRule", "dashboard")),
    *("networkPolicy.enabled=true", "autoscaling.enabled=true", "settings.cache_chat=always"),
    *("imagePullSecrets={one,two}", "podAnnotations.a=b", "nodeSelector.gpu=none", "tolerations[0].operator=Exists"),
)
pytestmark = pytest.mark.skipif(not HELM.exists(), reason="its wheel is for Linux on x86-64")


def helm(*arguments: str, values: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    options = [option for value in values for option in ("--set", value)]
    return subprocess.run([HELM, *arguments, *options], capture_output=True, text=True, check=False, timeout=60)


def rendered(*values: str) -> dict[str, Any]:
    """Return what the chart renders, by kind."""
    done = helm("template", "ocp", str(CHART), "--namespace", "ai", values=values)
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in YAML(typ="safe").load_all(done.stdout) if document}


def environment(found: dict[str, Any]) -> dict[str, Any]:
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


@pytest.mark.parametrize(
    "values",
    [
        REDIS,
        ("replicaCount=1",),
        ALL,
        (*ALL, "autoscaling.by=keda"),
        (*REDIS, "networkPolicy.enabled=true", "networkPolicy.from[0].podSelector.matchLabels.app=web"),
        ("redis.existingSecret=ocp", "adminToken.existingSecret=ocp", "service.type=NodePort"),
    ],
    ids=["least", "one", "all", "keda", "peers", "secrets"],
)
def test_what_it_renders_is_valid(values: tuple[str, ...]) -> None:
    done = helm("lint", "--strict", str(CHART), values=values)
    assert done.returncode == 0, done.stdout
    for kind, document in rendered(*values).items():
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "ocp"
        if kind not in OPERATOR:
            kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((), "several proxies need a Redis"),
        (("replicaCount=1", "autoscaling.enabled=true"), "several proxies need a Redis"),
        (("redis.url=redis://:secret@redis",), "redis.url"),
        (("redis.url=redis+sentinel://h/m?sentinel_password=x",), "redis.url"),
        ((*REDIS, "settings.listen=127.0.0.1:1"), "settings"),
        ((*REDIS, "replicas=3"), "replicas"),
        ((*REDIS, "upstream=ollama:11434"), "upstream"),
        ((*REDIS, "autoscaling.by=hand"), "autoscaling.by"),
    ],
)
def test_what_cannot_work_is_refused(values: tuple[str, ...], said: str) -> None:
    done = helm("template", "ocp", str(CHART), values=values)
    assert done.returncode != 0
    assert said in done.stderr.replace("/", ".")


def test_passwords_come_from_secrets_and_settings_are_those_of_the_proxy() -> None:
    secrets = ("redis.existingSecret=one", "adminToken.existingSecret=two", "settings.hot_bytes=134217728")
    found = environment(rendered(*secrets, "settings.lifetime_embed=90d", "settings.linger=0.5"))
    assert found["OCP_REDIS_URL"] == {"secretKeyRef": {"name": "one", "key": "redis-url"}}
    assert found["OCP_ADMIN_TOKEN"] == {"secretKeyRef": {"name": "two", "key": "admin-token"}}
    assert (found["OCP_HOT_BYTES"], found["OCP_LINGER"]) == ("134217728", "0.5")
    own = {name for values in (REDIS, ("replicaCount=1",)) for name in environment(rendered(*values))}
    assert {name.removeprefix("OCP_").lower() for name in own} <= set(Settings.model_fields)


def test_large_numbers_of_a_file_are_written_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("settings: {hot_bytes: 134217728, cache_streams: true}\n")
    done = helm("template", "ocp", str(CHART), "--values", str(file), values=REDIS)
    assert 'value: "134217728"' in done.stdout
    assert 'value: "true"' in done.stdout


def test_rules_and_dashboard_are_those_of_the_project() -> None:
    found = rendered(*ALL)
    groups = [
        group
        for name in ("recording", "alerts")
        for group in YAML(typ="safe").load(ROOT / "config" / "prometheus" / "rules" / f"{name}.yml")["groups"]
    ]
    assert found["PrometheusRule"]["spec"]["groups"] == groups
    shown = json.loads(found["ConfigMap"]["data"]["ollama-cache-proxy.json"])
    assert shown == json.loads((ROOT / "dashboards" / "ollama-cache-proxy.json").read_text("utf-8"))


def test_all_select_the_pods_and_the_service() -> None:
    found = rendered(*ALL)
    pods = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, path in (
        ("Deployment", ("selector", "matchLabels")),
        ("Service", ("selector",)),
        ("PodDisruptionBudget", ("selector", "matchLabels")),
        ("NetworkPolicy", ("podSelector", "matchLabels")),
    ):
        selected = found[kind]["spec"]
        for name in path:
            selected = selected[name]
        assert selected.items() <= pods.items(), kind
        assert len(selected) == 2
    monitored = found["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= found["Service"]["metadata"]["labels"].items()
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]


def test_its_metric_and_its_probes_are_those_of_the_proxy() -> None:
    described = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    metric = rendered(*ALL)["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    query = rendered(*ALL, "autoscaling.by=keda")["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"]
    assert f"`{metric}`" in described
    assert f'sum({metric}{{namespace="ai",service="ocp-ollama-cache-proxy"}})' == query
    (container,) = rendered(*REDIS)["Deployment"]["spec"]["template"]["spec"]["containers"]
    paths = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"/healthz", "/readyz"}


def paths_of(values: Any, above: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in ("resources", "labels"):
            yield from paths_of(value, f"{above}{name}.")
        else:
            yield above + name


def test_every_value_is_in_the_table_and_in_the_schema() -> None:
    values = YAML(typ="safe").load(CHART / "values.yaml")
    table = re.findall(r"^\| `([^`]+)` \| `", (ROOT / "docs" / "kubernetes.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(table) == sorted(paths_of(values))
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    for path in table:
        place = schema
        for name in path.split("."):
            place = place["properties"][name]
        assert "type" in place or "enum" in place, path
