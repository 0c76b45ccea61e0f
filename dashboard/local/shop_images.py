"""Images of the demo's application, one for each version: made here, of what is on this machine.

They hold the application alone, and their containers what runs it from this machine: nothing is
downloaded.
"""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from dashboard.local import docker_engine

REPOSITORY = "shop"
VERSIONS = 9
SUFFIXES = (
    *("", "-unhealthy", "-crash", "-slow", "-hang", "-liar"),
    *("-errors", "-sluggish", "-flap", "-sticky"),
)
APP = Path(__file__).resolve().parent / "app.py"
INSIDE = "shop/app.py"  # where it is in an image
LAYER = "layer.tar"
# As images call them, by what the kernel does.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def versions() -> list[str]:
    """Return the versions that there are images of: v1 to v9, each good and with every trouble."""
    return [f"v{number}{suffix}" for number in range(1, VERSIONS + 1) for suffix in SUFFIXES]


def archive(labels: dict[str, str]) -> bytes:
    """Return all images with `labels`, as `docker load` takes them: one layer, many settings."""
    layer = _tar({INSIDE: APP.read_bytes()})
    files, manifest = {LAYER: layer}, []
    for version in versions():
        config = json.dumps(_config(version, layer, labels)).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        files[name] = config
        manifest.append({"Config": name, "RepoTags": [reference(version)], "Layers": [LAYER]})
    return _tar({**files, "manifest.json": json.dumps(manifest).encode()})


def reference(version: str) -> str:
    """Return the name of the image of `version`."""
    return f"{REPOSITORY}:{version}"


def _config(version: str, layer: bytes, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": {"Env": [f"SHOP_VERSION={version}"], "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }


def _tar(files: dict[str, bytes]) -> bytes:
    """Return an archive of `files`, the same whenever it is made."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def command(name: str, port: int, balancer_url: str) -> list[str]:
    """Return what runs in the container of an instance."""
    # No site packages and no environment of Python's: it starts in half the time.
    python = [docker_engine.python(), "-S", "-E", "-P", f"/{INSIDE}"]
    return [*python, "--name", name, "--port", str(port), "--balancer", balancer_url]
