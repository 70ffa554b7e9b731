"""Models by name: a local folder, or a repository on the Hugging Face hub.

Everything that takes a model takes both. Downloads are kept in Hugging Face's
cache, where they are found again without a connection.
"""

import os
import re
from pathlib import Path

from huggingface_hub import model_info, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mobilebert_tf.errors import InputError

# Weights as safetensors only: a PyTorch pickle is not even fetched.
_WANTED = [
    "config.json",
    "model*.safetensors*",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "question_answering.json",
    "README.md",
]
# user/model, optionally @ and a branch, tag or commit.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_ANSWER_SECONDS = 10


def model_folder(name_or_path: str | os.PathLike) -> Path:
    """Returns the folder of a model, downloading it from the hub if needed.

    Args:
        name_or_path: a folder, which wins if both exist, or a name on the
            hub: `user/model` or `user/model@revision`.

    Raises:
        InputError: there is neither, or the model can neither be downloaded
            nor found in the cache.
    """
    folder, name = Path(name_or_path), os.fspath(name_or_path)
    # The path's own methods raise if a parent folder must not be read.
    if os.path.isdir(folder):
        return folder
    is_file = os.path.exists(folder)
    if is_file or not is_hub_name(name):
        found = "a file" if is_file else "no such folder"
        raise InputError(name, "a model folder", found)
    repository, _, revision = name.partition("@")
    try:
        return Path(_fetch(repository, revision or None))
    except HFValidationError as error:
        raise InputError(name, "a model folder", "no such folder") from error
    except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise InputError(
            name,
            "a model folder, or a model on the hub",
            f"no such folder; {_reason(error)}",
        ) from error


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a model's name on the hub."""
    return bool(_HUB_NAME.fullmatch(name))


def _fetch(repository: str, revision: str | None) -> str:
    """Asks the hub first, then the cache."""
    try:
        # `snapshot_download` has no timeout.
        model_info(repository, revision=revision, timeout=_ANSWER_SECONDS)
    except RevisionNotFoundError:
        raise
    except (HTTPError, OfflineModeIsEnabled) as refusal:
        try:
            return snapshot_download(
                repository,
                revision=revision,
                allow_patterns=_WANTED,
                local_files_only=True,
            )
        except LocalEntryNotFoundError:
            raise refusal from None
    return snapshot_download(
        repository, revision=revision, allow_patterns=_WANTED
    )


def _reason(error: Exception) -> str:
    """Returns why there is no download, as the end of an error message."""
    if isinstance(error, GatedRepoError):
        return (
            "the hub hands it out only to those who have accepted its terms "
            "(log in with `hf auth login`)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            "the hub has none of that name, or it is private (log in with "
            "`hf auth login`)"
        )
    if isinstance(error, RevisionNotFoundError):
        return "the hub has it without this revision"
    if isinstance(error, HfHubHTTPError):
        return f"the hub answers {error.response.status_code}"
    if isinstance(error, OfflineModeIsEnabled):
        return "the cache has none, and HF_HUB_OFFLINE is set"
    return (
        "the cache has none, and the hub cannot be reached "
        f"({type(error).__name__}: {error})"
    )
