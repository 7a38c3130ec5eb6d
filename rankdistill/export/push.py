"""An export on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from rankdistill.errors import UserError, first_line
from rankdistill.export.record import RECORD
from rankdistill.models.hub import Kind

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
    except (OSError, httpx.HTTPError) as error:
        raise UserError(
            f"The hub does not take '{repository}': {first_line(error)} The export is in "
            f"{folder}; `hf upload {repository} {folder}` tries again."
        ) from error
    return f"https://huggingface.co/{'' if kind == 'model' else 'datasets/'}{repository}"
