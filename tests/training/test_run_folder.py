"""A folder belongs to one run, and says which."""

import json

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.training.run_folder import check_settings, make_folder


def test_other_settings_are_refused_with_the_difference(tmp_path):
    path = tmp_path / "run.json"
    check_settings(path, {"rate": 0.1, "seed": 1, "files": ("a", "b")})
    check_settings(path, {"rate": 0.1, "seed": 1, "files": ["a", "b"]})
    with pytest.raises(InputError) as error:
        check_settings(path, {"rate": 0.2, "seed": 1, "files": ["a", "b"]})
    assert "rate=0.1 then, 0.2 now" in str(error.value)
    assert "seed" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "then, now, refused",
    [
        # An option that is gone, or new, matters only where it is on.
        ({"rate": 1, "old_losses": False}, {"rate": 1}, None),
        ({"rate": 1, "old_losses": True}, {"rate": 1}, "old_losses=True then"),
        ({"rate": 1}, {"rate": 1, "new_norm": None}, None),
        ({"rate": 1}, {"rate": 1, "new_norm": "rms"}, "new_norm=None then"),
        ({"rate": 1}, {"rate": 0}, "rate=1 then, 0 now"),
        ({"rate": None}, {"rate": 0}, "rate=None then, 0 now"),
    ],
)
def test_a_run_of_another_version_continues_or_is_refused_by_name(
    tmp_path, then, now, refused
):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(then))
    if refused is None:
        check_settings(path, now)
        return
    with pytest.raises(InputError, match=refused):
        check_settings(path, now)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        with pytest.raises(InputError, match="expected a folder to write into"):
            make_folder(tmp_path / folder)
