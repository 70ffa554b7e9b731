"""Rows on disk: none is made twice, none of other settings is taken."""

import json

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tools.tpu_rows import RowFile
from mobilebert_tf.tools.tpu_table import CRASHED
from tests.tools.tpu_examples import row

SETTINGS = {"max_seq_length": 512, "teacher": {"hidden_size": 512}}


def must_not_be_made():
    raise AssertionError("made twice")


def test_a_row_that_was_saved_is_not_made_again(tmp_path):
    path = tmp_path / "rows.json"
    first, failed = row(), row(batch_size=16, compiled=None, reason="no memory")
    for made in (first, failed):
        RowFile(path, SETTINGS).get(lambda: made, batch_size=made.batch_size)
    file = RowFile(path, SETTINGS)
    assert file.rows == [first, failed]
    assert file.get(must_not_be_made, batch_size=16) == failed
    assert file.get(must_not_be_made, backend="tensorflow") == first
    assert file.get(lambda: row(batch_size=32), batch_size=32).batch_size == 32


def test_a_crash_is_tried_again(tmp_path):
    path = tmp_path / "rows.json"
    crashed = row(compiled=None, reason=CRASHED)
    assert RowFile(path, SETTINGS).get(lambda: crashed, batch_size=8) == crashed
    assert RowFile(path, SETTINGS).rows == []


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = RowFile(None, SETTINGS)
    file.get(row, batch_size=8)
    assert len(file.rows) == 1 and not list(tmp_path.iterdir())


def test_rows_of_other_settings_are_refused(tmp_path):
    path = tmp_path / "rows.json"
    RowFile(path, SETTINGS).get(row, batch_size=8)
    with pytest.raises(InputError, match="max_seq_length: 128, found 512"):
        RowFile(path, SETTINGS | {"max_seq_length": 128})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "3",
        '{"settings": {}, "rows": [{"compiled": 1}]}',
        '{"settings": {}, "rows": [3]}',
        '{"settings": {}, "rows": [{"compiled": null, "slice_name": 3}]}',
        '{"settings": 3, "rows": []}',
    ],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(InputError, match="rows of tpu_compile"):
        RowFile(path, SETTINGS)
    assert path.read_text() == content


def test_the_file_is_json(tmp_path):
    path = tmp_path / "rows.json"
    RowFile(path, SETTINGS).get(row, batch_size=8)
    content = json.loads(path.read_text())
    assert content["settings"] == SETTINGS
    assert content["rows"][0]["compiled"]["flops"] == 4e12
