"""Build the image with buildah, where no container engine runs, and say what is how large in it: `make image`.

The base is Debian with Python, made by debootstrap, unless `--base` names an image. Base and image stay in build/image,
apart from the images of this machine. It takes root, as debootstrap does, and `make image-tools`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "image"
IMAGE: Final = "localhost/ollama-cache-proxy:local"
BASE: Final = "localhost/debian-python:bookworm"
_SUITE: Final = "bookworm"
_PACKAGES: Final = "python3,python3-venv,ca-certificates"
_CERTIFICATES: Final = "/etc/ssl/certs"
_MEGABYTE: Final = 1_000_000


def missing() -> list[str]:
    """Return the programs that are needed and not here."""
    return [name for name in ("buildah", "debootstrap") if shutil.which(name, path=f"{os.defpath}:/usr/sbin") is None]


def buildah(*arguments: str | Path) -> list[str | Path]:
    """Return a command of buildah that works in a storage of its own, without any rights but to files."""
    storage = ("--root", FOLDER / "storage", "--runroot", FOLDER / "run", "--storage-driver", "vfs")
    return ["buildah", *storage, *arguments]


def _run(*arguments: str | Path) -> str:
    return subprocess.run(buildah(*arguments), check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def exists(image: str) -> bool:
    """Return whether an image has been built."""
    found = subprocess.run(buildah("images", "--quiet", image), check=False, capture_output=True)
    return found.returncode == 0


def make_base() -> None:
    """Make the base, if it is not there: a minimal Debian with Python, and nothing that can be had again."""
    if exists(BASE):
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        command = ("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, folder)
        subprocess.run(command, check=True, stdout=sys.stderr)
        for cache in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder) / cache)
        for needed in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
            (Path(folder) / needed).mkdir(parents=True)
        with container("scratch") as made:
            _run("copy", "--quiet", made, folder, "/")
            _run("commit", "--quiet", made, BASE)


@contextmanager
def container(image: str) -> Iterator[str]:
    """Give the name of a container of an image, which is not running, and remove it in the end."""
    name = _run("from", "--pull-never", image)
    try:
        yield name
    finally:
        _run("rm", name)


def build(base: str = BASE) -> None:
    """Build the image. pip gets the settings of this machine's pip, and its certificates; none of it stays."""
    with tempfile.NamedTemporaryFile("w", prefix="pip-", suffix=".conf") as settings:
        settings.write(_pip_settings())
        settings.flush()
        subprocess.run(
            buildah(
                *("bud", "--quiet", "--isolation", "chroot", "--format", "docker", "--pull-never"),
                *("--build-arg", f"BASE={base}", "--ignorefile", ROOT / "docker" / "Dockerfile.dockerignore"),
                *("--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro", "--volume", f"{settings.name}:/etc/pip.conf:ro"),
                *("--file", ROOT / "docker" / "Dockerfile", "--tag", IMAGE, ROOT),
            ),
            check=True,
            stdout=sys.stderr,
        )


def _pip_settings() -> str:
    """Return what this machine's pip is told of where packages are, as a file of settings."""
    lines = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    wanted = ("index-url", "extra-index-url", "trusted-host", "cert", "proxy")
    pairs = [line.partition(".")[2].partition("=") for line in lines]
    kept = {name: value.strip("'") for name, _, value in pairs if name in wanted}
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items())


def settings_of(image: str) -> Mapping[str, Any]:
    """Return what an image says of how it is run: `Entrypoint`, `Cmd`, `Env`, `User`, `Healthcheck` and so on."""
    found: dict[str, Any] = json.loads(_run("inspect", "--type", "image", image))["Docker"]["config"]
    return found


def sizes(image: str) -> dict[str, int]:
    """Return how many bytes the files of each part of an image are: the whole, the proxy, and what that consists of."""
    with container(image) as made:
        root = Path(_run("mount", made))
        try:
            proxy = root / "opt" / "proxy"
            (site,) = proxy.glob("lib/python3.*/site-packages")
            parts = {part.name: _bytes(part) for part in sorted(site.iterdir())}
            return {"image": _bytes(root), "proxy": _bytes(proxy), **parts}
        finally:
            _run("umount", made)


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files if not file.is_symlink())


def _report(found: Mapping[str, int]) -> str:
    """Return the sizes as lines, of the proxy's parts the largest."""
    whole, proxy, *parts = found.items()
    lines = {"image": whole[1], "base": whole[1] - proxy[1], "proxy": proxy[1]}
    lines |= {f"  {name}": size for name, size in sorted(parts, key=lambda part: -part[1])[:8]}
    return "".join(f"{name:<24}{size / _MEGABYTE:>8.1f} MB\n" for name, size in lines.items())


def main() -> int:
    """Build the image, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", metavar="IMAGE", default=BASE, help="image to build on (default: made by debootstrap)"
    )
    parser.add_argument("--base-only", action="store_true", help="make the base, as the test of the image needs it")
    given = parser.parse_args()
    if missing():
        sys.stderr.write(f"{' and '.join(missing())} not found: run `make image-tools`\n")
        return 1
    if given.base == BASE:
        make_base()
    if not given.base_only:
        build(given.base)
        sys.stdout.write(_report(sizes(IMAGE)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
