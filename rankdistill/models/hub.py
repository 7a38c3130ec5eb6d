"""Hugging Face hub models and data sets, pinned to a commit: what is hashed is what is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from rankdistill.errors import UserError, suggest

_TIMEOUT = 20.0
"""Seconds to wait for the hub before the cache is asked."""
UNREACHED: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)
"""What a request to the hub fails by: the error of whichever HTTP library huggingface_hub is built
on (requests, httpx, httpx2), which it does not turn into one of its own."""
_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"]

Kind = Literal["model", "dataset"]
_NOUNS: dict[Kind, str] = {"model": "model", "dataset": "data set"}

_commits: dict[tuple[Kind, str, str], str] = {}
"""One answer per process: a branch that moves during a job does not change the job's model."""


def commit(
    repository: str,
    revision: str,
    *,
    known: Iterable[str] = (),
    kind: Kind = "model",
    remedy: str = "",
) -> str:
    """The commit that `revision` of a hub repository stands for: the hub's, else the cache's.

    Args:
        known: Names to suggest from, where it is not had.
        remedy: What to do then in their place, as the end of a sentence.

    Raises:
        UserError: no such repository or revision, no access, or neither hub nor cache has it.
    """
    remedy = remedy or suggest(repository, known)
    key = (kind, repository, revision)
    if key not in _commits:
        answer = _commit_on_hub(*key, remedy) or _commit_in_cache(*key)
        if answer is None:
            name = repository if revision == "main" else f"{repository}@{revision}"
            why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "no connection"
            local = "folder" if kind == "model" else "file"
            raise UserError(
                f"The {_NOUNS[kind]} '{name}' is no local {local}, not in Hugging Face's cache, "
                f"and the hub can't be reached ({why}): {remedy}"
            )
        _commits[key] = answer
    return _commits[key]


def snapshot(repository: str, revision: str, *, known: Iterable[str], weights: bool) -> Path:
    """The cached folder of a hub model's commit, downloaded where it is missing."""
    sha = commit(repository, revision, known=known)
    wanted = [*_FILES, "*.safetensors"] if weights else _FILES
    failure: Exception | None = None
    for cache_only in [True] if constants.is_offline_mode() else [False, True]:
        try:
            return Path(
                snapshot_download(
                    repository,
                    revision=sha,
                    allow_patterns=wanted,
                    # Copies in other formats are kept in sub-folders, or are Mistral's.
                    ignore_patterns=["*/*", "consolidated*"],
                    local_files_only=cache_only,
                )
            )
        except UNREACHED as error:
            failure = error
    raise UserError(
        f"Files of the model '{repository}' are neither in the cache nor could they be downloaded "
        f"({type(failure).__name__}): run again with a connection, finished files are kept."
    ) from failure


def cached_models() -> list[str]:
    """Ids of the models in Hugging Face's cache."""
    folders = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots")
    return sorted(
        folder.parent.name.removeprefix("models--").replace("--", "/") for folder in folders
    )


def _commit_on_hub(kind: Kind, repository: str, revision: str, remedy: str) -> str | None:
    if constants.is_offline_mode():
        return None
    noun = _NOUNS[kind]
    try:
        found = HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=_TIMEOUT)
    except GatedRepoError as error:
        raise UserError(
            f"The {noun} '{repository}' is gated: accept its terms on its hub page, "
            f"then `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"The {noun} '{repository}' has no revision '{revision}'.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"'{repository}' is neither on this machine nor a {noun} of the hub "
            f"(a private one needs `hf auth login`): {remedy}"
        ) from error
    except UNREACHED:
        return None
    return found.sha


def _commit_in_cache(kind: Kind, repository: str, revision: str) -> str | None:
    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}"
    if (folder / "snapshots" / revision).is_dir():
        return revision
    reference = folder / "refs" / revision
    return reference.read_text().strip() if reference.is_file() else None
