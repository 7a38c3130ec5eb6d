"""Models that vLLM has a network for, by its files: importing vLLM takes seconds."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from rankdistill.errors import UserError
from rankdistill.models.model import Model


def no_backend(model: Model) -> str | None:
    """Why vLLM cannot run a model, as a clause; None where it can.

    Said only of networks that come as code with a model, and that may run: whatever transformers
    has, vLLM is asked for, and its engine says what it cannot do.
    """
    file = model.folder / "config.json"
    if not model.loading.trust_remote_code or not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    if "AutoModelForCausalLM" not in (config.get("auto_map") or {}):
        return None
    architecture = (config.get("architectures") or ["the network"])[0]
    if f'"{architecture}"' in _registry():
        return None
    return f"vLLM has no back end for {architecture}, whose code comes with '{model.path}'"


def require_backend(key: str, model: Model) -> None:
    """UserError where the configuration's `key` asks vLLM for a model that it cannot run."""
    reason = no_backend(model)
    if reason is not None:
        raise UserError(f"{reason}: set {key}=transformers.")


def _registry() -> str:
    """The source that lists vLLM's architectures; empty where vLLM is not installed."""
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        return ""
    file = Path(spec.origin).parent / "model_executor" / "models" / "registry.py"
    return file.read_text(encoding="utf-8") if file.is_file() else ""
