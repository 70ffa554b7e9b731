"""Models by name: a local folder, published weights, or Hugging Face's hub.

Everything that takes a model takes all three. Downloads are kept in Hugging
Face's cache, where they are found again without a connection. Its library takes
half a second to import: only who downloads imports it.
"""

import dataclasses
import os
import re
from pathlib import Path

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import sha256

# What is fetched besides the weights.
_WANTED = [
    "config.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "question_answering.json",
    "README.md",
]
# The first of these that a repository has. A PyTorch pickle is not even
# fetched.
_WEIGHTS = (r"model[^/]*\.safetensors(\.index\.json)?", r"tf_model\.h5")
_PICKLE = "pytorch_model.bin"
# user/model, optionally @ and a branch, tag or commit.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_SHA256 = re.compile("[0-9a-f]{64}")
_ANSWER_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights that others have published.

    Attributes:
        summary: what they are.
        source: a name on the hub, or the address of a `.tar.gz` archive with
            a TensorFlow checkpoint.
        preset: their architecture.
        casing: `uncased` or `cased`.
        megabytes: size of the weights as float32, from the number of
            parameters.
        licence: as their publisher states it.
        revision: commit on the hub to read; None for the newest.
        digest: SHA-256 of the archive, if it is known.
    """

    summary: str
    source: str
    preset: str
    casing: str
    megabytes: int
    licence: str = "Apache-2.0"
    revision: str | None = None
    digest: str | None = None

    @property
    def is_archive(self) -> bool:
        return self.source.startswith(("https://", "http://"))


_GOOGLE = "https://storage.googleapis.com"
_OPT = "L-24_H-128_B-512_A-4_F-4_OPT.tar.gz"
PUBLISHED = {
    "mobilebert-uncased": Published(
        "English, with both pre-training heads",
        "google/mobilebert-uncased",
        "mobilebert",
        "uncased",
        146,
    ),
    "mobilebert-uncased-tf1": Published(
        "the original TensorFlow 1 checkpoint of the same",
        f"{_GOOGLE}/cloud-tpu-checkpoints/mobilebert/uncased_{_OPT}",
        "mobilebert",
        "uncased",
        146,
    ),
    "mobilebert-uncased-garden": Published(
        "Model Garden's conversion of the same, without next sentence",
        f"{_GOOGLE}/tf_model_garden/official/mobilebert/uncased_{_OPT}",
        "mobilebert",
        "uncased",
        146,
    ),
    "mobilebert-multilingual-cased": Published(
        "Wikipedia in many languages, Model Garden",
        f"{_GOOGLE}/tf_model_garden/official/mobilebert/multi_cased_{_OPT}",
        "mobilebert_multilingual",
        "cased",
        328,
    ),
    "mobilebert-uncased-squad-v1": Published(
        "fine-tuned on SQuAD v1.1",
        "csarron/mobilebert-uncased-squad-v1",
        "mobilebert",
        "uncased",
        98,
        licence="see its page",
    ),
}


def published_table() -> str:
    """Returns the published weights as a Markdown table."""
    rows = [
        "| name | what it is | where | preset | MB | licence |",
        "|---|---|---|---|--:|---|",
    ]
    for name, one in PUBLISHED.items():
        rows.append(
            f"| `{name}` | {one.summary}; {one.casing} | {one.source} | "
            f"`{one.preset}` | {one.megabytes} | {one.licence} |"
        )
    return "\n".join(rows)


def model_folder(name_or_path: str | os.PathLike) -> Path:
    """Returns the folder of a model, downloading it from the hub if needed.

    Args:
        name_or_path: a folder, which wins over a name; a name in `PUBLISHED`,
            of an archive once a command has converted it;
            or a name on the hub: `user/model` or `user/model@revision`.

    Raises:
        InputError: there is no such model, it can neither be downloaded nor
            found in the cache, or it has to be converted first.
    """
    folder, name = Path(name_or_path), os.fspath(name_or_path)
    # The path's own methods raise if a parent folder must not be read.
    if os.path.isdir(folder):
        return folder
    if os.path.exists(folder):
        raise _no_model(name, "a file")
    published = PUBLISHED.get(name)
    if published is None:
        if not is_hub_name(name):
            raise _no_model(name, "no such folder")
        repository, _, revision = name.partition("@")
        return _hub_folder(name, repository, revision or None)
    if not published.is_archive:
        return _hub_folder(name, published.source, published.revision)
    folder = converted_folder(name)
    if not folder.is_dir():
        raise InputError(
            name,
            "a model folder; first `mobilebert convert "
            f"--input={name} --output=FOLDER`",
            "a TensorFlow checkpoint",
        )
    return folder


def converted_folder(name_or_path: str | os.PathLike) -> Path | None:
    """Returns where a converted archive is kept; None for other names."""
    published = PUBLISHED.get(os.fspath(name_or_path))
    if (
        not published
        or not published.is_archive
        or os.path.exists(name_or_path)
    ):
        return None

    from mobilebert_tf.downloads import archive_place

    return archive_place(os.fspath(name_or_path)) / "model"


def files_of_model(folder: Path) -> list[Path]:
    """Lists the files of a model folder that decide what the model computes."""
    names = sorted(os.listdir(folder))
    wanted = {*_WANTED, *_weights_of(names)} - {"README.md"}
    return [folder / name for name in names if name in wanted]


def source_folder(name: str) -> Path | None:
    """Returns the folder of a name to convert, of any kind; None if it is none.

    Raises:
        InputError: it can neither be downloaded nor found in the cache.
    """
    from mobilebert_tf.downloads import archive_folder

    published = PUBLISHED.get(name)
    if published is not None and published.is_archive:
        return archive_folder(name, published.source, published.digest)
    if published is not None or is_hub_name(name):
        return model_folder(name)
    return None


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a model's name on the hub."""
    return bool(_HUB_NAME.fullmatch(name))


def _no_model(name: str, found: str) -> InputError:
    known = ", ".join(PUBLISHED)
    return InputError(
        name,
        f"a model folder, a model on the hub (user/model), or {known}",
        found,
    )


def _hub_folder(name: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import errors

    try:
        return Path(_fetch(name, repository, revision))
    except errors.HFValidationError as error:
        raise _no_model(name, "no such folder") from error
    except (
        errors.HTTPError,
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
    ) as error:
        raise _no_model(name, f"no such folder; {_reason(error)}") from error
    except OSError as error:
        # A full disk has a number; a download that is too short has none.
        if error.errno is not None:
            raise
        raise InputError(name, "a whole download", error) from error


def _fetch(name: str, repository: str, revision: str | None) -> str:
    """Asks the hub first, then the cache."""
    from huggingface_hub import errors, model_info, snapshot_download

    try:
        # `snapshot_download` has no timeout.
        info = model_info(
            repository, revision=revision, timeout=_ANSWER_SECONDS
        )
    except errors.RevisionNotFoundError:
        raise
    except (errors.HTTPError, errors.OfflineModeIsEnabled) as refusal:
        try:
            # Asked for more, the library would miss what was not fetched.
            folder = snapshot_download(
                repository,
                revision=revision,
                allow_patterns=["config.json"],
                local_files_only=True,
            )
        except errors.LocalEntryNotFoundError:
            raise refusal from None
        if not _weights_of(os.listdir(folder)):
            # An earlier download was cut.
            raise refusal
        return folder
    files = [file.rfilename for file in info.siblings]
    weights = _weights_of(files)
    if not weights:
        command = unpickling_command(repository)
        raise InputError(
            name,
            "model.safetensors or tf_model.h5 in its repository (a pickle may "
            f"run code and is never opened; {command})",
            _PICKLE if _PICKLE in files else "neither",
        )
    wanted = [*_WANTED, *weights]
    folder = snapshot_download(
        repository, revision=revision, allow_patterns=wanted
    )
    _check_digests(name, Path(folder), wanted)
    return folder


def _weights_of(files: list[str]) -> list[str]:
    for pattern in _WEIGHTS:
        found = [file for file in files if re.fullmatch(pattern, file)]
        if found:
            return found
    return []


def unpickling_command(name_or_path: str | os.PathLike) -> str:
    """Returns the sentence that tells how to convert a pickle."""
    name = os.fspath(name_or_path)
    return (
        "if you trust it, run where transformers is installed: "
        f"python -c \"import transformers as t; n = '{name}'; "
        "c = t.AutoConfig.from_pretrained(n).architectures; "
        "m = getattr(t, (c or ['MobileBertForPreTraining'])[0]); "
        "[k.from_pretrained(n).save_pretrained('NEW_FOLDER') "
        'for k in (m, t.AutoTokenizer)]"'
    )


def _check_digests(name: str, folder: Path, files: list[str]) -> None:
    """Compares large files with their SHA-256, by which the cache names them.

    Raises:
        InputError: a file differs; it is deleted, to be fetched again.
    """
    for file in files:
        blob = (folder / file).resolve()
        if not _SHA256.fullmatch(blob.name) or not blob.is_file():
            continue
        found = sha256(blob)
        if found != blob.name:
            blob.unlink()
            raise InputError(
                name, f"the SHA-256 {blob.name}", found, place=file
            )


def _reason(error: Exception) -> str:
    """Returns why there is no download, as the end of an error message."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        return (
            "the hub hands it out only to those who have accepted its terms "
            "(log in with `hf auth login`)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "the hub has none of that name, or it is private (log in with "
            "`hf auth login`)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has it without this revision"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answers {error.response.status_code}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the cache has none, and HF_HUB_OFFLINE is set"
    return (
        "the cache has none, and the hub cannot be reached "
        f"({type(error).__name__}: {error})"
    )
