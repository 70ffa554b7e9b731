"""Names of models: folders, the hub, its cache, and each way to get none.

The hub is a local server that speaks as much of its protocol as the real
client asks for.
"""

import hashlib
import os
import resource
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, errors, snapshot_download

from mobilebert_tf import downloads, hub
from mobilebert_tf.errors import InputError
from mobilebert_tf.presets import PRESETS
from tests.web_server import COMMIT, serving

REPOSITORY = Path(__file__).resolve().parents[1]
LARGE = bytes(range(256)) * 2000
FILES = {
    "config.json": b"{}",
    "vocab.txt": b"[PAD]\n",
    "model.safetensors": LARGE,
    "tf_model.h5": b"not fetched",
    "pytorch_model.bin": b"never fetched",
    "onnx/model.onnx": b"not fetched",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def server(cache, monkeypatch):
    """A hub with one model, user/model."""
    with serving() as server:
        server.files |= {f"user/model/{name}": FILES[name] for name in FILES}
        client = HfApi(endpoint=server.address)
        download = partial(
            snapshot_download, endpoint=server.address, cache_dir=cache
        )
        monkeypatch.setattr(huggingface_hub, "model_info", client.model_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        yield server


def refusal(name) -> str:
    with pytest.raises(InputError) as caught:
        hub.model_folder(name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(name))
    return message


def fetched(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def only(*names) -> dict:
    return {name: FILES[name] for name in names}


def test_a_folder_wins_over_a_name(server, tmp_path, monkeypatch):
    for name in ("user/model", "mobilebert-uncased"):
        (tmp_path / name).mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert hub.model_folder(name) == Path(name)
    assert hub.model_folder(tmp_path) == tmp_path
    assert server.asked == []


@pytest.mark.parametrize("name", ["user/model", "user/model@refs/pr/3"])
def test_a_name_is_fetched_once(server, name):
    folder = hub.model_folder(name)
    assert folder.name == COMMIT
    assert fetched(folder) == only(
        "config.json", "vocab.txt", "model.safetensors"
    )
    server.asked.clear()
    assert hub.model_folder(name) == folder
    assert not any(
        method == "GET" and "resolve" in path
        for method, path, _ in server.asked
    )
    # And without the hub, if it is the newest or that revision.
    server.status = 503
    assert hub.model_folder(name) == folder


def test_a_repository_without_safetensors(server):
    del server.files["user/model/model.safetensors"]
    assert fetched(hub.model_folder("user/model")) == only(
        "config.json", "vocab.txt", "tf_model.h5"
    )


def test_a_repository_with_a_pickle_only(server):
    for name in ("model.safetensors", "tf_model.h5"):
        del server.files[f"user/model/{name}"]
    message = refusal("user/model")
    assert "import transformers as t; n = 'user/model'" in message
    assert message.endswith("found pytorch_model.bin")
    assert not any("bin" in path for _, path, _ in server.asked)


def test_published_weights_have_names(server, monkeypatch):
    published = hub.Published("x", "user/model", "mobilebert", "cased", 1)
    monkeypatch.setitem(hub.PUBLISHED, "named", published)
    assert hub.model_folder("named") == hub.model_folder("user/model")
    assert hub.source_folder("named") == hub.model_folder("user/model")


def test_an_archive_is_to_be_converted(cache, monkeypatch):
    name = "mobilebert-uncased-tf1"
    message = refusal(name)
    assert f"first `mobilebert convert --input={name} --output=FOLDER`" in (
        message
    )
    asked = []
    monkeypatch.setattr(
        downloads, "archive_folder", lambda *words: asked.append(words) or cache
    )
    assert hub.source_folder(name) == cache
    (words,) = asked
    assert words[:2] == (name, hub.PUBLISHED[name].source)
    assert hub.source_folder("neither") is None


def test_the_table_is_in_the_readme():
    readme = (REPOSITORY / "README.md").read_text()
    assert hub.published_table() in readme
    for published in hub.PUBLISHED.values():
        assert published.preset in PRESETS
        assert published.is_archive or hub.is_hub_name(published.source)


def test_a_cut_connection_goes_on(server, capfd):
    server.cut["user/model/model.safetensors"] = 100_000
    folder = hub.model_folder("user/model")
    assert (folder / "model.safetensors").read_bytes() == LARGE


def test_what_has_another_hash_is_refused_and_fetched_again(server):
    digest = hashlib.sha256(b"what the hub promised").hexdigest()
    server.claims["user/model/model.safetensors"] = digest
    message = refusal("user/model")
    assert f"model.safetensors: expected the SHA-256 {digest}, found" in message
    server.claims.clear()
    folder = hub.model_folder("user/model")
    assert (folder / "model.safetensors").read_bytes() == LARGE


def test_a_full_disk(server, recwarn):
    # Stands for a full disk: Python ignores the signal, so that writing fails.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            hub.model_folder("user/model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # What is not whole is not taken for a model, offline neither.
    server.status = 503
    assert "the hub answers 503" in refusal("user/model")
    server.status = None
    assert len(fetched(hub.model_folder("user/model"))) == 3


def test_a_name_that_the_hub_lacks(server):
    message = refusal("user/other")
    assert "the hub has none of that name" in message
    assert "mobilebert-uncased, mobilebert-uncased-tf1" in message


def http_error(error_class, status=404):
    request = httpx2.Request("GET", "https://huggingface.co/api/models/a/b")
    return error_class("no", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    "error, expected",
    [
        (http_error(errors.GatedRepoError, 403), "accepted its terms"),
        (http_error(errors.RevisionNotFoundError), "without this revision"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (httpx2.ReadTimeout("timed out"), "cannot be reached (ReadTimeout"),
    ],
)
def test_why_there_is_none(error, expected, server, monkeypatch):
    def refuse(*arguments, **keywords):
        raise error

    monkeypatch.setattr(huggingface_hub, "model_info", refuse)
    message = refusal("user/model@v9")
    assert "found no such folder; " in message
    assert expected in message


def test_a_revision_that_does_not_exist_is_not_taken_from_the_cache(
    server, monkeypatch
):
    """The hub knows better."""
    hub.model_folder("user/model@v9")

    def refuse(*arguments, **keywords):
        raise http_error(errors.RevisionNotFoundError)

    monkeypatch.setattr(huggingface_hub, "model_info", refuse)
    assert "without this revision" in refusal("user/model@v9")


@pytest.mark.parametrize(
    "name", ["model", "a/b/c", "../model", "a--b/c", "user/", "a b/c"]
)
def test_what_cannot_be_a_name_is_a_missing_folder(name, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refusal(name)
    assert message.endswith("found no such folder")
    assert ", or mobilebert-uncased, mobilebert-" in message


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model").write_text("")
    assert "found a file" in refusal(tmp_path / "model")


def test_environment_variables(server, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, as a user sets them."""
    script = (
        "from mobilebert_tf.hub import model_folder\n"
        "print(model_folder('user/model'))\n"
    )

    def run(**variables):
        environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
        return subprocess.run(
            [sys.executable, "-c", script],
            env=environment | variables,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert "HF_HUB_OFFLINE is set" in run(HF_HUB_OFFLINE="1").stderr
    first = run(HF_ENDPOINT=server.address)
    assert str(tmp_path / "home") in first.stdout, first.stderr
    assert run(HF_HUB_OFFLINE="1").stdout == first.stdout


def test_a_hub_that_never_answers(server, monkeypatch):
    monkeypatch.setattr(hub, "_ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = HfApi(endpoint=address)
        monkeypatch.setattr(huggingface_hub, "model_info", client.model_info)
        assert "cannot be reached (ReadTimeout" in refusal("user/other")
    assert "cannot be reached (ConnectError" in refusal("user/other")
