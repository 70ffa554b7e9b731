"""A tagger's folder in Hugging Face: the same pieces, logits and tags."""

import numpy as np
import pytest
import torch
import transformers

from mobilebert_tf.modeling.models import MobileBertForTokenClassification
from mobilebert_tf.pipeline import TokenClassifier
from mobilebert_tf.tasks.token_windows import encode_sentences
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests import tiny
from tests.peers.test_hugging_face import LIMIT
from tests.peers.weights import randomise

pytestmark = pytest.mark.peers

NAMES = ("O", "B-PER", "I-PER", "B-LOC")
WORDS = "the cat sat on a mat in new york , said mr . smith".split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
VOCAB += [*"xyz", *(f"##{letter}" for letter in "aeiouxyz")]
SENTENCES = [
    "Mr. Smith said , the cat sat in New York .".split(),
    ["Cata", "m\u00e4t", "U.S.", "xyz", "\u4e2d", "York-on", "the"],
    ["a"],
]


@pytest.fixture
def folder(tmp_path, rng):
    config = tiny.student_config(vocab_size=len(VOCAB))
    model = MobileBertForTokenClassification(config, NAMES)
    randomise(model, rng)
    # So that tags differ from token to token.
    table = model.encoder.embeddings.word_embeddings
    table.assign(2.0 * rng.normal(size=table.shape))
    kernel = model.head.dense.kernel
    kernel.assign(0.1 * rng.normal(size=kernel.shape))
    model.save_pretrained(tmp_path)
    WordpieceTokenizer(VOCAB).write(tmp_path)
    return tmp_path


def test_first_pieces_are_the_peers_word_starts(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    arrays = encode_sentences(
        SENTENCES, None, WordpieceTokenizer.from_folder(folder), 24
    ).arrays
    theirs = tokenizer(
        SENTENCES, is_split_into_words=True, padding="max_length", max_length=24
    )
    np.testing.assert_array_equal(arrays["input_ids"], theirs["input_ids"])
    np.testing.assert_array_equal(
        arrays["input_mask"], theirs["attention_mask"]
    )
    for row in range(len(SENTENCES)):
        words = theirs.word_ids(row)
        starts = [
            word is not None and word != before
            for before, word in zip([None, *words], words, strict=False)
        ]
        np.testing.assert_array_equal(arrays["label_weights"][row], starts)


def test_the_peer_tags_alike(folder, differences):
    peer = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    peer.eval()
    assert type(peer).__name__ == "MobileBertForTokenClassification"
    assert peer.config.id2label == dict(enumerate(NAMES))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tags, probs = TokenClassifier(folder).tag(SENTENCES)
    seen = set()
    for sentence, ours, our_probs in zip(SENTENCES, tags, probs, strict=True):
        batch = tokenizer(
            [sentence], is_split_into_words=True, return_tensors="pt"
        )
        with torch.no_grad():
            logits = peer(**batch).logits[0]
        words = batch.word_ids(0)
        first = [words.index(index) for index in range(len(sentence))]
        theirs = torch.softmax(logits[first].double(), -1).max(-1)
        assert ours == [peer.config.id2label[int(i)] for i in theirs.indices]
        found = differences(
            "Hugging Face",
            "tagger",
            "probabilities",
            our_probs,
            theirs.values.numpy(),
            relative=False,
        )
        assert found <= LIMIT
        seen.update(ours)
    assert len(seen) > 1
