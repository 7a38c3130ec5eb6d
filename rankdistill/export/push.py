"""An export on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from rankdistill.errors import UserError, first_line
from rankdistill.export.record import RECORD


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


def push(folder: Path, repository: str, private: bool) -> str:
    """Uploads the folder; returns where it is.

    Args:
        private: Make a new repository private, else public. One that exists stays as it is.

    Raises:
        UserError: the hub can't be reached, or refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            commit_message="A student, exported by rankdistill",
            ignore_patterns=[RECORD],
        )
    except (OSError, httpx.HTTPError) as error:
        raise UserError(
            f"The hub does not take '{repository}': {first_line(error)} The export is in "
            f"{folder}; `hf upload {repository} {folder}` tries again."
        ) from error
    return f"https://huggingface.co/{repository}"
