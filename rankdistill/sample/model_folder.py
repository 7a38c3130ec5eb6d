"""What both samplers take from a model's folder besides its weights, and the rows they make; the
folder of the weights that engines read: whose it is, and what dead processes have left."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import decode_response
from rankdistill.models.model import Model
from rankdistill.rows import Response
from rankdistill.store.files import home
from rankdistill.store.locks import file_lock, held_at_once
from rankdistill.store.removal import folders_named, is_running

_NOT_SHAPE = ("_name_or_path", "transformers_version", "tie_word_embeddings", "use_cache")


def contents(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and mtime of every file: equal only while the folder is unchanged."""
    stats = ((file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def shape(folder: Path) -> dict[str, Any]:
    """The configuration without what may differ between weights that fit the same engine."""
    return {key: v for key, v in _read(folder / "config.json").items() if key not in _NOT_SHAPE}


def stop_ids(folder: Path, tokenizer: Any) -> list[int]:
    """Ids that end a response: the tokenizer's EOS, and those in the model's generation config.

    Chat models often have two: the end of a turn, and the end of a document.
    """
    for name in ("generation_config.json", "config.json"):
        named = _read(folder / name).get("eos_token_id")
        if named is not None:
            break
    more = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({tokenizer.eos_token_id, *more})


def check_positions(folder: Path, prompts: Iterable[list[int]], max_response_tokens: int) -> int:
    """Tokens of the longest prompt with its response.

    Raises:
        UserError: the model has fewer positions than that.
    """
    longest = max(map(len, prompts))
    positions = max_positions(folder)
    if positions is not None and longest + max_response_tokens > positions:
        raise UserError(
            f"A prompt of {longest} tokens and sample.max_response_tokens={max_response_tokens} "
            f"exceed the {positions} positions of the model in '{folder}': lower "
            f"prompts.max_prompt_tokens or sample.max_response_tokens."
        )
    return longest + max_response_tokens


def max_positions(folder: Path) -> int | None:
    """Longest sequence the model was made for, where its configuration says so."""
    config = _read(folder / "config.json")
    config = config.get("text_config") or config
    return config.get("max_position_embeddings") or config.get("n_positions")


def to_response(
    tokenizer: Any, token_ids: list[int], ends: Collection[int], source: str
) -> Response:
    """The row of a sampled response: `stop` if one of its tokens is one of `ends`, else `length`.

    What stands behind that token is padding, and left out.
    """
    first = next((i for i, token in enumerate(token_ids) if token in ends), len(token_ids))
    token_ids = token_ids[: first + 1]
    return Response(
        text=decode_response(tokenizer, token_ids),
        token_ids=token_ids,
        finish_reason="stop" if token_ids[-1] in ends else "length",
        source=source,
    )


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


class EngineFolder:
    """A new folder on the stage outputs' file system, so that exported weights are links.

    Its owner holds a lock beside it, which the kernel takes from a process that ends. A process's
    number would not do: containers that share a volume and a host name count their own.
    """

    def __init__(self) -> None:
        parent = home() / "vllm"
        parent.mkdir(parents=True, exist_ok=True)
        _remove_left(parent)
        name = f"{socket.gethostname()}@{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = file_lock(_lock_of(parent / name))
        self._lock.acquire()
        self.path = parent / name
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        """Removes it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()


def _remove_left(parent: Path) -> None:
    """Removes the folders that killed processes have left."""
    host = re.escape(socket.gethostname())
    for folder, match in folders_named(parent, rf"{host}@([0-9]+)-[a-z0-9_]{{8}}"):
        lock = _lock_of(folder)
        if not lock.exists():  # of a version that had none: its process's number is all there is
            if not is_running(int(match[1])):
                shutil.rmtree(folder, ignore_errors=True)
            continue
        with suppress(OSError), held_at_once(lock) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def no_backend(model: Model) -> str | None:
    """Why vLLM cannot run a model, as a clause; None where it can.

    Said only of networks that come as code with a model, and that may run: whatever transformers
    has, vLLM is asked for, and its engine says what it cannot do.
    """
    config = _read(model.folder / "config.json") if model.loading.trust_remote_code else {}
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
