"""What this machine can build and run, what clashes, and what to do about it.

Every check is a function that yields `Check`s and changes nothing. Only a `FAULT` makes `enginery doctor` exit with
1: an absent optional engine is a fact, not a fault.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from enginery.engines import get_engine, targets
from enginery.errors import EngineryError

MINIMUM_FREE_BYTES = 2 << 30
"""A build of an ordinary model keeps a few copies of its weights in the store."""

DRIVER_SECONDS = 30.0
"""A driver that hangs is a broken one."""

_BUILD_PACKAGES = ("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "safetensors", "scipy", "scikit-learn", "pillow")
_OPTIONAL_PACKAGES = ("transformers", "timm", "tokenizers", "jinja2", "model-signing")
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_CPU_FLAGS = {"avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "amx_int8": "AMX", "asimddp": "dot product"}


class Status(StrEnum):
    OK = "ok"
    ABSENT = "absent"
    FAULT = "fault"


@dataclass(frozen=True)
class Check:
    """One finding. `remedy` says what to do; it is empty where there is nothing to do."""

    name: str
    status: Status
    words: str
    remedy: str = ""


def examine(output: Path) -> Iterator[Check]:
    """Yield every finding about this machine; `output` is the folder that builds go to."""
    yield _python()
    yield from _packages()
    yield _onnxruntime()
    yield _processor()
    yield _gpu()
    yield from _targets()
    yield _disk(output)


def _python() -> Check:
    return Check("python", Status.OK, f"{platform.python_version()} at {sys.executable}")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Check]:
    for group, names, remedy in (
        ("packages to build", _BUILD_PACKAGES, "pip install 'enginery[cpu]' (or [gpu]). Running bundles needs none."),
        ("optional packages", _OPTIONAL_PACKAGES, "Install an extra where you need it: enginery[hf], [build], [sign]."),
    ):
        versions = {name: _version(name) for name in names}
        present = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        missing = ", ".join(name for name, version in versions.items() if not version)
        if present:
            yield Check(group, Status.OK, present)
        if missing:
            yield Check(group, Status.ABSENT, f"not installed: {missing}", remedy)


def _onnxruntime() -> Check:
    """Two onnxruntime packages share one folder: the second overwrites the first, and removing one breaks both."""
    installed = [name for name in _ONNXRUNTIMES if _version(name)]
    words = ", ".join(f"{name} {_version(name)}" for name in installed)
    if len(installed) > 1:
        remedy = f"pip uninstall {' '.join(installed)}; then install exactly one."
        return Check("onnxruntime", Status.FAULT, f"{words} share one folder and overwrite each other", remedy)
    if not installed:
        return Check("onnxruntime", Status.ABSENT, "not installed", "pip install 'enginery[cpu]' (or [gpu])")
    return Check("onnxruntime", Status.OK, words)


def _processor() -> Check:
    words = f"{platform.machine()}, {os.cpu_count()} threads"
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return Check("processor", Status.OK, words)
    found = [name for flag, name in _CPU_FLAGS.items() if flag in flags]
    if found:
        return Check("processor", Status.OK, f"{words}, int8 instructions: {', '.join(found)}")
    remedy = "int8 engines will be little or no faster than float ones here; the speed gate will tell."
    return Check("processor", Status.ABSENT, f"{words}, no int8 dot-product instructions", remedy)


def _gpu() -> Check:
    query = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader")
    if shutil.which(query[0]) is None:
        return Check("gpu", Status.ABSENT, "nvidia-smi is not installed: no NVIDIA driver")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpu", Status.FAULT, f"nvidia-smi fails: {error}", "Repair the NVIDIA driver.")
    return Check("gpu", Status.OK, "; ".join(line.strip() for line in answer.stdout.splitlines()))


def _targets() -> Iterator[Check]:
    for target in targets():
        name = f"target {target}"
        try:
            engine = get_engine(target)
            no_build, no_run = engine.cannot_build(), engine.cannot_run()
        except EngineryError as error:
            yield Check(name, Status.FAULT, str(error))
            continue
        if no_build is not None:
            yield Check(name, Status.ABSENT, "cannot build here", no_build)
        elif no_run is not None:
            yield Check(name, Status.OK, "builds here, cannot run here", no_run)
        else:
            yield Check(name, Status.OK, "builds and runs here")


def _disk(output: Path) -> Check:
    folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    words = f"{free / (1 << 30):.1f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Check("disk", Status.FAULT, f"{folder} is not writable", "Name another folder: --output FOLDER.")
    if free < MINIMUM_FREE_BYTES:
        return Check("disk", Status.FAULT, words, "Free some space, or set ENGINERY_STORE to a roomier folder.")
    return Check("disk", Status.OK, words)
