"""The container files, as far as they can be judged without a container engine: by their schemas, and by the rules they state."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from ollama_cache_proxy.service.settings import Settings
from tests.support.prometheus import RULES
from tests.support.servers import Proxy, free_port

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent


def read(name: str) -> Any:
    return YAML(typ="safe").load((DOCKER / name).read_text("utf-8"))


COMPOSE = read("compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]
STAYING = sorted(name for name, service in SERVICES.items() if service["restart"] != "no")
ROOTS = {"dcgm-exporter", "models"}
"""Services that are root, without what makes root dangerous; compose.yml says why."""


@pytest.mark.parametrize("name", ["compose.yml", "gpu.yml"])
def test_a_compose_file_is_valid(name: str) -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / name]
    checked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="its wheel is for Linux on x86-64")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    command = [BIN / "hadolint", DOCKER / "Dockerfile"]
    checked = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_no_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("cap_add", []) == (["CHOWN"] if name == "models" else [])
    assert "privileged" not in service
    assert not {"network_mode", "pid", "ipc"} & set(service) or name == "models"
    user, group = service["user"].split(":")
    assert (int(user) == 0) == (name in ROOTS)
    assert int(group) >= 0
    assert service["pids_limit"] <= 1024
    assert ("mem_limit" in service) == (name != "ollama")  # how much a model takes is for its owner to say


@pytest.mark.parametrize("name", STAYING)
def test_a_service_that_stays_says_how_it_is_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert "healthcheck" in service or "build" in service  # whose Dockerfile has one
    assert {"max-size", "max-file"} == set(service["logging"]["options"])


def test_only_loopback_reaches_the_stack() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "proxy": ["127.0.0.1:11494:11494"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_images_are_pinned() -> None:
    """Each tag was found in use in public repositories. What takes its tag from a setting has a default."""
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert images == {
        "ollama": "ollama/ollama:0.33.3",  # the last of the version that the simulator speaks
        "models": "redis:7-alpine",
        "redis": "redis:7-alpine",
        "proxy": "ollama-cache-proxy:local",
        "prometheus": "prom/prometheus:v3.13.4",  # with long-term support, until July 2027
        "grafana": "grafana/grafana:13.2.3",
        "dcgm-exporter": "nvcr.io/nvidia/k8s/dcgm-exporter:${DCGM_EXPORTER_TAG:-3.3.9-3.6.1-ubuntu22.04}",
    }
    assert "build" in SERVICES["proxy"]
    assert "DCGM_EXPORTER_TAG=4.5.2-4.8.1-ubuntu22.04 " in (DOCKER / "compose.yml").read_text("utf-8")


DCGM_DEFAULTS = {
    "3.3.9-3.6.1": (
        *("SM_CLOCK", "MEM_CLOCK", "MEMORY_TEMP", "GPU_TEMP", "POWER_USAGE", "TOTAL_ENERGY_CONSUMPTION"),
        *("PCIE_REPLAY_COUNTER", "GPU_UTIL", "MEM_COPY_UTIL", "ENC_UTIL", "DEC_UTIL", "XID_ERRORS"),
        *("FB_FREE", "FB_USED", "NVLINK_BANDWIDTH_TOTAL", "VGPU_LICENSE_STATUS"),
    ),
    "4.5.2-4.8.1": (
        *("SM_CLOCK", "MEM_CLOCK", "MEMORY_TEMP", "GPU_TEMP", "POWER_USAGE", "TOTAL_ENERGY_CONSUMPTION"),
        *("PCIE_REPLAY_COUNTER", "GPU_UTIL", "MEM_COPY_UTIL", "ENC_UTIL", "DEC_UTIL", "XID_ERRORS"),
        *("FB_FREE", "FB_USED", "FB_RESERVED", "NVLINK_BANDWIDTH_TOTAL", "VGPU_LICENSE_STATUS"),
    ),
}
"""What the two pinned releases of dcgm-exporter export by default of a card (etc/default-counters.csv), profiling aside."""


@pytest.mark.parametrize("release", DCGM_DEFAULTS)
def test_what_dashboard_and_rules_read_of_gpus_is_exported_by_both_releases(release: str) -> None:
    texts = [path.read_text("utf-8") for path in (*RULES, ROOT / "dashboards" / "ollama-cache-proxy.json")]
    read = {name for text in texts for name in re.findall(r"DCGM_\w+", text)}
    assert len(read) >= 4
    assert read <= {f"DCGM_FI_DEV_{name}" for name in DCGM_DEFAULTS[release]}


def test_the_base_is_pinned_and_may_be_replaced() -> None:
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]


@pytest.mark.parametrize("listen", ["0.0.0.0:{port}", "127.0.0.1:{port}", ":{port}"])
async def test_the_image_s_health_is_that_of_the_port_that_it_listens_on(listen: str, proxy: Proxy) -> None:
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    (written,) = re.findall(r"^    CMD (\[.+\])$", text, re.MULTILINE)
    interpreter, *words = json.loads(written)
    assert interpreter == "/opt/proxy/bin/python"
    port = urlsplit(proxy.url).port
    assert port is not None
    for asked, expected in ((port, 0), (free_port(), 1)):
        environment = {"OCP_LISTEN": listen.format(port=asked)}
        checked = await asyncio.create_subprocess_exec(
            sys.executable, *words, env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        assert await asyncio.wait_for(checked.wait(), 30) == expected


def test_redis_holds_as_much_as_the_proxy_is_promised() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options == {
        "--maxmemory": "2gb",
        "--maxmemory-policy": "allkeys-lru",
        "--save": "",
        "--appendonly": "no",
    }


def test_what_is_mounted_is_there() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    files = [volume.split(":")[0] for volume in mounted if volume.startswith(".")]
    named = {volume.split(":")[0] for volume in mounted if not volume.startswith(".")}
    assert len(files) == 5
    assert all((DOCKER / file).exists() for file in files)
    assert all(volume.endswith(":ro") for volume in mounted if volume.startswith("."))
    assert named == set(COMPOSE["volumes"])


def test_the_proxy_s_environment_are_its_settings() -> None:
    names = set(SERVICES["proxy"]["environment"])
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    names |= set(re.findall(r"\b(OCP_\w+)=", text))
    assert names >= {"OCP_UPSTREAM", "OCP_REDIS_URL", "OCP_ADMIN_TOKEN", "OCP_LISTEN", "OCP_LOG"}
    assert {name.removeprefix("OCP_").lower() for name in names} <= set(Settings.model_fields)


def test_no_secret_is_written_down_and_none_is_a_default() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("TOKEN|PASSWORD|SECRET", name):
                assert str(value).startswith("${OCP_ADMIN_TOKEN:?")


def test_prometheus_scrapes_the_services_and_takes_the_rules() -> None:
    scraped = read("prometheus.yml")
    targets = [
        target for job in scraped["scrape_configs"] for one in job["static_configs"] for target in one["targets"]
    ]
    names = {target.split(":")[0] for target in targets} - {"127.0.0.1"}
    assert names == {"proxy", "dcgm-exporter"}
    own = YAML(typ="safe").load((ROOT / "config" / "prometheus" / "prometheus.yml").read_text("utf-8"))
    assert scraped["rule_files"] == own["rule_files"]
    assert [job["job_name"] for job in scraped["scrape_configs"]] == [job["job_name"] for job in own["scrape_configs"]]


def test_the_image_is_built_from_what_the_builder_is_sent() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert {name for line in copied for name in line.split()} == sent
    assert all((ROOT / name).exists() for name in sent)
