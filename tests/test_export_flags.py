"""What --metadata refuses, before anything is trained."""

import types

import pytest

from mobilebert_tf.commands import flags_export as export
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] a".split()


@pytest.fixture
def tokenizer(monkeypatch):
    flags = types.SimpleNamespace(metadata=True)
    monkeypatch.setattr(export, "FLAGS", flags)
    return WordpieceTokenizer(VOCAB)


@pytest.mark.parametrize(
    ("task", "length", "has_pairs", "message"),
    [
        ("regression", 128, False, "a classifier, found a regression"),
        ("single_label", 128, True, "a classifier of single texts, found pa"),
        ("question_answering", 128, False, "--export_seq_length=384, found"),
    ],
)
def test_files_that_no_text_task_opens(
    tokenizer, task, length, has_pairs, message
):
    with pytest.raises(InputError, match=f"^--metadata: expected {message}"):
        export.metadata_tokenizer(tokenizer, task, length, has_pairs)


def test_cased_vocabularies_are_refused(tokenizer):
    cased = WordpieceTokenizer(VOCAB, do_lower_case=False)
    with pytest.raises(InputError, match="expected an uncased vocabulary"):
        export.metadata_tokenizer(cased, "single_label", 128)


def test_what_is_asked_for_is_packed(tokenizer):
    for task, length in (("single_label", 32), ("question_answering", 384)):
        assert export.metadata_tokenizer(tokenizer, task, length) is tokenizer
    export.FLAGS.metadata = False
    assert export.metadata_tokenizer(tokenizer, "regression", 8) is None


def test_metadata_needs_files(tokenizer):
    export.FLAGS.export = []
    config = MobileBertConfig()
    with pytest.raises(InputError, match="^--metadata: expected --export, to"):
        export.check_export(config)
    export.FLAGS.export, export.FLAGS.export_seq_length = ["int8"], None
    export.check_export(config)
