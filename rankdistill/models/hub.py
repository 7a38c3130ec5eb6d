"""Hugging Face hub models, pinned to a commit: what is hashed is what is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from rankdistill.errors import UserError, suggest

_TIMEOUT = 20.0
"""Seconds to wait for the hub before the cache is asked."""
_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py"]

_commits: dict[tuple[str, str], str] = {}
"""One answer a process: a branch that moves during a job does not change the job's model."""


def commit(repository: str, revision: str, *, known: Iterable[str]) -> str:
    """The commit that `revision` of a hub model stands for: the hub's, else the cache's.

    Raises:
        UserError: no such model or revision, no access, or neither hub nor cache has it. `known`
            are the names to suggest from.
    """
    if (repository, revision) not in _commits:
        answer = _commit_on_hub(repository, revision, known) or _commit_in_cache(
            repository, revision
        )
        if answer is None:
            name = repository if revision == "main" else f"{repository}@{revision}"
            why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "no connection"
            raise UserError(
                f"The model '{name}' is no local folder, not in Hugging Face's cache, and "
                f"the hub can't be reached ({why}): {suggest(repository, known)}"
            )
        _commits[repository, revision] = answer
    return _commits[repository, revision]


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
        except (OSError, httpx.HTTPError) as error:
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


def _commit_on_hub(repository: str, revision: str, known: Iterable[str]) -> str | None:
    if constants.is_offline_mode():
        return None
    try:
        return HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT).sha
    except GatedRepoError as error:
        raise UserError(
            f"The model '{repository}' is gated: accept its terms on its hub page, "
            f"then `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"The model '{repository}' has no revision '{revision}'.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"There is no model folder and no hub model '{repository}' "
            f"(a private one needs `hf auth login`): {suggest(repository, known)}"
        ) from error
    except (OSError, httpx.HTTPError):
        return None


def _commit_in_cache(repository: str, revision: str) -> str | None:
    try:
        config = try_to_load_from_cache(repository, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(config).parent.name if isinstance(config, str) else None
