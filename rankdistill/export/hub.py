"""What the hub is asked and told: the base model's license, its name for the card and its text for
the folder; and the export itself, where it is pushed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, constants, get_token, hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from rankdistill.errors import UserError, first_line
from rankdistill.export.place import RECORD
from rankdistill.models.hub import UNREACHED, Kind
from rankdistill.models.locate import locate

PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "COPYING*")

ORIGINS = {
    "bundled/smollm2-135m-instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
}
"""Where bundled models come from, and their license."""


@dataclass(frozen=True)
class License:
    """What a base model may be used for."""

    identifier: str | None
    """The hub's name of it, `apache-2.0`; None: not known here."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """By file name."""


def license_of(path: str) -> License:
    """The license of a model as it is named in a configuration; nothing is guessed.

    Of a bundled model it is known, of a folder it is what lies in it, of a hub model what the hub
    has beside it (a hub that can't be reached is no error: the card then says that it is unknown).
    """
    if path in ORIGINS:
        return License(ORIGINS[path][1], _ours())
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _in_folder(folder)
    return _on_hub(path) if is_hub_id(path) else License(None)


def is_hub_id(path: str) -> bool:
    """Whether `path` can only mean a repository of the hub."""
    name = path.partition("@")[0]
    if name.count("/") != 1 or path.startswith("bundled/") or Path(path).expanduser().exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return Path(name).suffix not in (".gguf", ".json", ".jsonl", ".parquet", ".csv")


def hub_name(path: str) -> str | None:
    """The hub's name of a model of a configuration, where it has one."""
    if path in ORIGINS:
        return ORIGINS[path][0]
    return path.partition("@")[0] if is_hub_id(path) else None


def _ours() -> dict[str, str]:
    """The text of Apache-2.0, which is this package's own license as well."""
    try:
        files = distribution("rankdistill").files or []
    except PackageNotFoundError:
        files = []
    places = [Path(str(file.locate())) for file in files if file.name == "LICENSE"]
    places.append(Path(__file__).parents[2] / "LICENSE")
    found = next(place for place in places if place.is_file())
    return {"LICENSE": found.read_text(encoding="utf-8")}


def _in_folder(folder: Path) -> License:
    files = sorted({file for pattern in PATTERNS for file in folder.glob(pattern)})
    texts = {file.name: file.read_text(encoding="utf-8", errors="replace") for file in files}
    card = folder / "README.md"
    named: Any = None
    if card.is_file():
        named = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    return License(named if isinstance(named, str) else None, texts)


def _on_hub(path: str) -> License:
    repository, _, revision = path.partition("@")
    try:
        if constants.is_offline_mode():
            return _in_folder(Path(locate(path, weights=False)))
        info = HfApi().model_info(repository, revision=revision or None, timeout=20)
        names = [s.rfilename for s in info.siblings or []]
        wanted = [n for n in names if any(Path(n).match(p) for p in PATTERNS) and "/" not in n]
        texts = {
            name: Path(hf_hub_download(repository, name, revision=info.sha)).read_text("utf-8")
            for name in wanted
        }
    except (*UNREACHED, UserError):
        return License(None)
    data: Any = info.card_data
    return License(data.get("license") if data else None, texts)


_WHAT = {"model": "student", "dataset": "ranked set"}


def check_push(repository: str) -> None:
    """UserError for a name that the hub would refuse, and where there is no token."""
    try:
        validate_repo_id(repository)
        valid = "/" in repository
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError(f"--push takes user/name, as the hub writes it, and not '{repository}'.")
    if get_token() is None:
        raise UserError(
            "--push needs a token that may write: set HF_TOKEN to it, or run `hf auth login`."
        )


def push(folder: Path, repository: str, private: bool, kind: Kind = "model") -> str:
    """Uploads the folder; returns where it is.

    Args:
        kind: Of the repository.
        private: Make a new repository private, else public. One that exists stays as it is.

    Raises:
        UserError: the hub can't be reached, or refuses.
    """
    api = HfApi()
    try:
        # What is not said is a model.
        options: dict[str, Any] = {} if kind == "model" else {"repo_type": kind}
        api.create_repo(repository, private=private, exist_ok=True, **options)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            commit_message=f"A {_WHAT[kind]}, exported by rankdistill",
            ignore_patterns=[RECORD],
            **options,
        )
    except UNREACHED as error:
        raise UserError(
            f"The hub does not take '{repository}': {first_line(error)} The export is in "
            f"{folder}; `hf upload {repository} {folder}` tries again."
        ) from error
    return f"https://huggingface.co/{'' if kind == 'model' else 'datasets/'}{repository}"
