"""The container files, as far as they can be judged without a container engine: by their schemas, and by the rules they state."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ollama_cache_proxy.service.settings import Settings

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


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    if "build" in SERVICES[name]:
        assert image == "ollama-cache-proxy:local"
    else:
        assert re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", image)


def test_base_images_are_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)


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
