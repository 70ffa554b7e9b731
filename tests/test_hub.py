"""Names of models: folders, the hub, its cache, and each way to get none.

There is no hub in a test. Its answers are played to the real client's caller,
its cache is laid out as the client does, and the real client is turned away.
"""

import socket
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, constants, errors

from mobilebert_tf import hub
from mobilebert_tf.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refusal(name) -> str:
    with pytest.raises(InputError) as caught:
        hub.model_folder(name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(name))
    return message


class PlayedHub:
    """Answers `model_info` and `snapshot_download`, and notes the questions."""

    def __init__(self, monkeypatch, folder, refuses=None, has_cache=False):
        self.folder, self.refuses = folder, refuses
        self.has_cache = has_cache
        self.asked, self.fetched = [], []
        monkeypatch.setattr(hub, "model_info", self.model_info)
        monkeypatch.setattr(hub, "snapshot_download", self.snapshot_download)

    def model_info(self, repository, *, revision, timeout):
        self.asked.append((repository, revision))
        assert 0 < timeout <= 30
        if self.refuses is not None:
            raise self.refuses

    def snapshot_download(
        self, repository, *, revision, allow_patterns, local_files_only=False
    ):
        self.fetched.append((repository, revision, local_files_only))
        assert "config.json" in allow_patterns
        assert not any("bin" in pattern for pattern in allow_patterns)
        if local_files_only and not self.has_cache:
            raise errors.LocalEntryNotFoundError("not in the cache")
        return str(self.folder)


def http_error(error_class, status=404):
    request = httpx2.Request("GET", "https://huggingface.co/api/models/a/b")
    return error_class("no", response=httpx2.Response(status, request=request))


def test_a_folder_wins_over_a_name(tmp_path, monkeypatch):
    played = PlayedHub(monkeypatch, tmp_path)
    (tmp_path / "user" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.model_folder("user/model") == Path("user/model")
    assert hub.model_folder(tmp_path) == tmp_path
    assert played.asked == []


@pytest.mark.parametrize(
    "name, repository, revision",
    [
        ("user/model", "user/model", None),
        ("user/model@v1.0", "user/model", "v1.0"),
        ("user/model@refs/pr/3", "user/model", "refs/pr/3"),
    ],
)
def test_a_name_is_fetched(name, repository, revision, tmp_path, monkeypatch):
    played = PlayedHub(monkeypatch, tmp_path)
    assert hub.model_folder(name) == tmp_path
    assert played.asked == [(repository, revision)]
    assert played.fetched == [(repository, revision, False)]


REFUSALS = [
    (http_error(errors.RepositoryNotFoundError), "none of that name"),
    (http_error(errors.GatedRepoError, 403), "accepted its terms"),
    (http_error(errors.HfHubHTTPError, 503), "the hub answers 503"),
    (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
    (httpx2.ConnectError("Name not known"), "cannot be reached (ConnectError"),
    (httpx2.ReadTimeout("timed out"), "cannot be reached (ReadTimeout"),
]


@pytest.mark.parametrize("error, expected", REFUSALS)
def test_why_there_is_none(error, expected, tmp_path, monkeypatch):
    PlayedHub(monkeypatch, tmp_path, refuses=error)
    message = refusal("user/model")
    assert "found no such folder; " in message
    assert expected in message


@pytest.mark.parametrize("error, _", REFUSALS)
def test_the_cache_helps_where_the_hub_does_not(
    error, _, tmp_path, monkeypatch
):
    played = PlayedHub(monkeypatch, tmp_path, refuses=error, has_cache=True)
    assert hub.model_folder("user/model") == tmp_path
    assert played.fetched == [("user/model", None, True)]


def test_a_revision_that_does_not_exist(tmp_path, monkeypatch):
    """The cache is not asked: the hub knows better."""
    error = http_error(errors.RevisionNotFoundError)
    played = PlayedHub(monkeypatch, tmp_path, refuses=error, has_cache=True)
    assert "without this revision" in refusal("user/model@v9")
    assert played.fetched == []


@pytest.mark.parametrize(
    "name", ["model", "a/b/c", "../model", "a--b/c", "user/", "a b/c"]
)
def test_what_cannot_be_a_name_is_a_missing_folder(name, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(hub, "snapshot_download", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "expected a model folder, found no such folder" in refusal(name)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model").write_text("")
    assert "found a file" in refusal(tmp_path / "model")


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A cached model, laid out as huggingface_hub does."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--user--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("name", ["user/model", f"user/model@{COMMIT}"])
def test_the_real_cache_offline(name, snapshot, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.model_folder(name) == snapshot


@pytest.mark.parametrize("name", ["user/other", "user/model@v9"])
def test_nothing_cached_offline(name, snapshot, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(name) == (
        f"{name}: expected a model folder, or a model on the hub, found no "
        "such folder; the cache has none, and HF_HUB_OFFLINE is set"
    )


def test_a_hub_that_never_answers_and_one_that_is_not_there(
    snapshot, monkeypatch
):
    monkeypatch.setattr(hub, "_ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = HfApi(endpoint=address)
        monkeypatch.setattr(hub, "model_info", client.model_info)
        assert "cannot be reached (ReadTimeout" in refusal("user/other")
        assert hub.model_folder("user/model") == snapshot
    assert "cannot be reached (ConnectError" in refusal("user/other")
    assert hub.model_folder("user/model") == snapshot
