"""Programs that tests and measurements run, and the Debian packages that bring them.

`make test` names those that are missing and installs none. `make system-tools` (and `make bench-tools` for measurements,
`make image-tools` for the image) lists what it is about to install, and installs it, which takes root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A program under one of its names, the packages that bring it, and what cannot be run without it."""

    names: tuple[str, ...]
    packages: tuple[str, ...]
    use: str

    @property
    def missing(self) -> bool:
        """Whether it is neither on the PATH nor where Debian has its servers."""
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
        return not any(shutil.which(name, path=path) for name in self.names)


TOOLS: Final = {
    "system-tools": (
        Tool(
            names=("chromium", "chromium-browser", "google-chrome"),
            packages=("chromium", "fonts-dejavu-core"),
            use="the tests of the live page in a browser",
        ),
        Tool(names=("node",), packages=("nodejs",), use="the tests of JavaScript clients"),
        Tool(
            names=("npm",), packages=("npm",), use="the tests of JavaScript clients, and of the live page by axe-core"
        ),
        Tool(names=("zsh",), packages=("zsh",), use="the tests of completion in zsh"),
        Tool(names=("fish",), packages=("fish",), use="the tests of completion in fish"),
        Tool(names=("curl",), packages=("curl",), use="the tests of the documentation's commands"),
        Tool(names=("nginx",), packages=("nginx-light",), use="the tests of an Ollama behind nginx"),
        Tool(names=("strip",), packages=("binutils",), use="the test of the image's size"),
        Tool(names=("git",), packages=("git",), use="the tests of requests derived from a history"),
    ),
    "image-tools": (
        Tool(names=("buildah",), packages=("buildah",), use="make image, and the test of the image"),
        Tool(names=("debootstrap",), packages=("debootstrap",), use="make image, and the test of the image"),
    ),
    "bench-tools": (
        Tool(names=("nginx",), packages=("nginx-light",), use="make bench"),
        Tool(names=("wrk",), packages=("wrk",), use="make bench"),
        Tool(names=("varnishd",), packages=("varnish", "varnish-modules"), use="make bench-peers"),
    ),
}
"""By the target of the Makefile that installs them."""


def report(target: str) -> int:
    """Print what is missing, what is left out for it, and how to get it; returns how many programs that are."""
    missing = [tool for tool in TOOLS[target] if tool.missing]
    for tool in missing:
        say(f"No {tool.names[0]}. Left out: {tool.use}")
    if missing:
        say(f"`make {target}` installs what is missing from Debian's packages")
    return len(missing)


def install(target: str) -> int:
    """List the packages of what is missing and install them; returns an exit status."""
    missing = [tool for tool in TOOLS[target] if tool.missing]
    packages = [package for tool in missing for package in tool.packages]
    if not missing:
        say("Nothing to install: " + ", ".join(tool.names[0] for tool in TOOLS[target]) + " are here")
        return 0
    say("To be installed on this system, from Debian:")
    for tool in missing:
        say(f"  {', '.join(tool.packages):<32}  for {tool.use}")
    if shutil.which("apt-get") is None:
        say("There is no apt-get here: install them as this system does it")
        return 1
    if os.geteuid() != 0:
        say(f"This takes root: sudo make {target}")
        return 1
    return apt_get("update", "-qq") or apt_get("install", "-yqq", "--no-install-recommends", *packages)


def apt_get(*arguments: str) -> int:
    """Run apt-get, which asks nothing and tells only what goes wrong; returns its exit status."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ("apt-get", *arguments)
    return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


def say(line: str) -> None:
    """Print a line at once: what apt-get says comes after it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TOOLS)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--install", action="store_true", help="install what is missing; without it only say so")
    what.add_argument("--need", nargs="+", metavar="PROGRAM", help="fail where one of these is missing")
    given = parser.parse_args(arguments)
    if given.install:
        return install(given.target)
    if given.need:
        return need(given.target, given.need)
    report(given.target)
    return 0


def need(target: str, names: Iterable[str]) -> int:
    """Say which of these programs are missing; returns an exit status."""
    missing = [tool.names[0] for tool in TOOLS[target] if tool.missing and tool.names[0] in names]
    if missing:
        say(f"{' and '.join(missing)} not found: run `make {target}`")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
