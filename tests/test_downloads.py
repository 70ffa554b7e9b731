"""Archives over HTTP: whole, cut, wrong, hostile, and found again offline."""

import base64
import hashlib
import io
import resource
import tarfile

import pytest
from huggingface_hub import constants

from mobilebert_tf import downloads
from mobilebert_tf.errors import InputError
from tests.web_server import serving

FILES = {
    "uncased/bert_config.json": b"{}",
    "uncased/vocab.txt": b"[PAD]\n",
    "uncased/model.ckpt.data": bytes(range(256)) * 4000,
}


def archive(files, change=None) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=0) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if change:
                change(member)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with serving() as server:
        server.files["a.tar.gz"] = archive(FILES)
        yield server


def fetch(server, digest=None):
    return downloads.archive_folder("a", f"{server.address}/a.tar.gz", digest)


def refusal(server, digest=None) -> str:
    with pytest.raises(InputError) as caught:
        fetch(server, digest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_whole(folder):
    assert folder.name == "uncased"
    for path in folder.iterdir():
        assert path.read_bytes() == FILES[f"uncased/{path.name}"]
    assert len(list(folder.iterdir())) == len(FILES)


def test_a_whole_archive_is_kept_for_offline(server, monkeypatch, tmp_path):
    digest = hashlib.sha256(server.files["a.tar.gz"]).hexdigest()
    assert_whole(fetch(server, digest))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_whole(fetch(server))
    assert len(server.asked) == 1
    # Only the unpacked files are kept.
    names = {path.name for path in (tmp_path / "cache/archives--a").iterdir()}
    assert "incomplete" not in names
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        downloads.archive_folder("b", "http://x/a.tar.gz")


def test_a_cut_download_goes_on(server):
    server.cut["a.tar.gz"] = 300_000
    assert_whole(fetch(server))
    ranges = [wanted for _, _, wanted in server.asked]
    assert ranges == [None, "bytes=300000-"]


def test_a_later_command_goes_on_too(server, monkeypatch):
    monkeypatch.setattr(downloads, "_TRIES", 1)
    server.cut["a.tar.gz"] = 300_000
    assert "what has come is kept" in refusal(server)
    assert_whole(fetch(server))
    assert server.asked[-1][2] == "bytes=300000-"


def test_a_file_that_has_changed_is_fetched_anew(server, monkeypatch):
    """The server is told which file the first part is of."""
    monkeypatch.setattr(downloads, "_TRIES", 1)
    server.files["a.tar.gz"] = archive({"uncased/old": bytes(10**6)})
    server.cut["a.tar.gz"] = 300_000
    refusal(server)
    server.files["a.tar.gz"] = archive(FILES)
    assert_whole(fetch(server))


def test_wrong_content(server):
    assert f"expected the SHA256 {'0' * 64}, found " in refusal(
        server, "0" * 64
    )
    md5 = hashlib.md5(b"other").digest()
    server.claims["a.tar.gz"] = base64.b64encode(md5).decode()
    assert f"expected the MD5 {md5.hex()}" in refusal(server)
    right = hashlib.md5(server.files["a.tar.gz"]).digest()
    server.claims["a.tar.gz"] = base64.b64encode(right).decode()
    assert_whole(fetch(server))


def test_nothing_there(server, monkeypatch):
    del server.files["a.tar.gz"]
    assert "found the answer 404" in refusal(server)
    monkeypatch.setattr(downloads, "_ANSWER_SECONDS", 0.2)
    with pytest.raises(InputError, match="broken connection"):
        downloads.archive_folder("a", "http://127.0.0.1:1/a.tar.gz")


def link(kind):
    def change(member):
        member.type, member.size = kind, 0
        member.linkname = "/etc/passwd"

    return change


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"<html>", "expected a .tar.gz archive"),
        (archive(FILES)[:-50_000], "expected a .tar.gz archive"),
        (archive({"../x": b""}), "expected paths inside its folder"),
        (archive({"/tmp/x": b""}), "expected paths inside its folder"),
        (archive({"a/../../x": b""}), "expected paths inside its folder"),
        (archive({"x": b""}, link(tarfile.SYMTYPE)), "expected plain files"),
        (archive({"x": b""}, link(tarfile.LNKTYPE)), "expected plain files"),
        (archive({"x": b""}, link(tarfile.FIFOTYPE)), "expected plain files"),
    ],
)
def test_hostile_archives_leave_nothing(server, content, expected, tmp_path):
    server.files["a.tar.gz"] = content
    assert expected in refusal(server)
    assert not (tmp_path / "cache/archives--a/files").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_an_archive_that_unpacks_to_too_much(server, monkeypatch):
    monkeypatch.setattr(downloads, "_MAX_UNPACKED", 1000)
    assert "expected at most 1,000 bytes" in refusal(server)


def test_a_full_disk(server):
    # Stands for a full disk: Python ignores the signal, so that writing fails.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            fetch(server)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_whole(fetch(server))
