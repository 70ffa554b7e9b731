"""The package's public names are imported on first use."""

import subprocess
import sys

import pytest

import mobilebert_tf as mb

WITHOUT_BACKENDS = """
import sys
for name in ("keras", "tensorflow", "jax", "torch"):
    sys.modules[name] = None  # importing it fails
import mobilebert_tf as mb
config = mb.MobileBertConfig.from_preset("mobilebert_small")
assert mb.InputError and mb.__version__
import mobilebert_tf.compat, mobilebert_tf.files, mobilebert_tf.hub
import mobilebert_tf.options, mobilebert_tf.commands.convert
try:
    mb.MobileBertEncoder
except ImportError:
    print("no encoder", config.hidden_size)
"""


def test_importing_needs_no_backend():
    words = [sys.executable, "-c", WITHOUT_BACKENDS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stdout == "no encoder 96\n", done.stderr


def test_every_public_name_is_found_and_listed():
    for name in mb.__all__:
        assert getattr(mb, name) is getattr(mb, name)
    assert set(dir(mb)) >= {*mb.__all__, "__version__"}
    assert mb.load.__module__ == "mobilebert_tf.modeling.load"
    with pytest.raises(AttributeError, match="no attribute 'Bert'"):
        mb.Bert
