"""What the image's first stage leaves for its second, from what is installed here: no engine, no network.

The Dockerfile's own commands say what is left out again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.leaving_out import program

ROOT: Final = Path(__file__).parents[2]
MOST: Final = 52_000_000
"""Bytes of the proxy's files in the image; they were 76 million, without what seals, signs and compresses (14)."""
_PLACE: Final = "/opt/proxy"
_LOCKED: Final = re.compile(r"^(\S+==[^\\\n]+)", re.MULTILINE)


def stage(folder: Path) -> Path:
    """Fill a folder as the image's /opt/proxy, and return its site-packages."""
    program("strip")
    site = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    script = (ROOT / "docker" / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    removed = {name for names in re.findall(r"pip uninstall --yes ([^&]*)", script) for name in names.split()}
    for found in _locked():
        if canonicalize_name(found.name) not in removed:
            _copy(found, site)
    ours = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "proxy" / "ollama_cache_proxy", site / "ollama_cache_proxy", ignore=ours)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", "2", site], check=True, timeout=300)
    commands = re.findall(rf"&& (find {_PLACE} .*?)(?= && )", script)
    assert len(commands) == script.count("find "), "each command that leaves something out is understood"
    for command in commands:
        subprocess.run(["/bin/sh", "-ec", command.replace(_PLACE, str(folder))], check=True, timeout=60)
    return site


def _locked() -> Iterator[Distribution]:
    """Yield what the locks of the image name, as it is installed here."""
    for lock in ("requirements.lock", "requirements-server.lock"):
        for line in _LOCKED.findall((ROOT / lock).read_text("utf-8")):
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate():
                yield distribution(needed.name)


def _copy(found: Distribution, site: Path) -> None:
    """Copy the files of a distribution, but for its commands; what is compiled already as it is."""
    names = {str(file) for file in found.files or () if ".." not in file.parts}
    for name in names:
        here, there = Path(str(found.locate_file(name))), site / name
        if here.is_file():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(here, there)
