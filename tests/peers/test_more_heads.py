"""Masked LM and next sentence alone, wide embeddings, split files.

Both ways, as in `test_hugging_face.py`, whose helpers serve here too.
"""

import numpy as np
import pytest
import torch
import transformers

import mobilebert_tf as mb
from mobilebert_tf.modeling.folder import INDEX_FILE, WEIGHTS_FILE
from tests.peers.test_hugging_face import (
    LIMIT,
    SMALL,
    for_peer,
    open_in_peer,
    their_outputs,
)
from tests.peers.weights import randomise

pytestmark = [
    pytest.mark.peers,
    # PyTorch's comment on the empty tensor.
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
]

NAMES = ["MobileBertForMaskedLM", "MobileBertForNextSentencePrediction"]
# Hugging Face writes an empty tensor for the head of the last one.
WIDTHS = [24, 64]


def build_peer(name, embedding_size):
    torch.manual_seed(1)
    config = transformers.MobileBertConfig(
        vocab_size=SMALL.vocab_size,
        hidden_size=64,
        embedding_size=embedding_size,
        intra_bottleneck_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
    )
    peer = getattr(transformers, name)(config).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return peer


def assert_close(ours, theirs):
    theirs = theirs.numpy()
    scale = np.abs(theirs).max()
    assert np.abs(np.asarray(ours) - theirs).max() <= LIMIT * scale


@pytest.mark.parametrize("embedding_size", WIDTHS)
@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_peer_opens_our_folder(
    name, pooler, embedding_size, rng, padded_batch, differences, tmp_path
):
    changes = {
        "classifier_activation": pooler,
        "embedding_size": embedding_size,
    }
    config = mb.MobileBertConfig(**SMALL.to_dict() | changes)
    model = getattr(mb, name)(config)
    randomise(model, rng)
    model.save_pretrained(tmp_path)
    peer = open_in_peer(tmp_path, name)
    batch = padded_batch(config.vocab_size)
    (theirs,) = their_outputs(peer, batch)
    found = differences("Hugging Face", name, "logits", model(batch), theirs)
    assert found <= LIMIT


@pytest.mark.parametrize("embedding_size", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_we_open_the_peers_folder(name, embedding_size, padded_batch, tmp_path):
    peer = build_peer(name, embedding_size)
    peer.save_pretrained(tmp_path)
    model = mb.load(tmp_path)
    assert model.architecture == name
    batch = padded_batch(SMALL.vocab_size)
    (theirs,) = their_outputs(peer, batch)
    assert_close(model(batch), theirs)


@pytest.mark.parametrize("theirs_first", [False, True])
def test_wide_embeddings_with_both_heads(
    theirs_first, rng, padded_batch, tmp_path
):
    if theirs_first:
        peer = build_peer("MobileBertForPreTraining", 64)
        peer.save_pretrained(tmp_path)
        model = mb.load(tmp_path)
    else:
        changes = {"embedding_size": 64}
        config = mb.MobileBertConfig(**SMALL.to_dict() | changes)
        model = mb.MobileBertForPretraining(config)
        randomise(model, rng)
        model.save_pretrained(tmp_path)
        peer = open_in_peer(tmp_path, "MobileBertForPreTraining")
    batch = padded_batch(SMALL.vocab_size)
    ours = model(batch)
    with torch.no_grad():
        theirs = peer(**for_peer(batch))
    assert_close(ours["masked_lm_logits"], theirs.prediction_logits)
    assert_close(ours["next_sentence_logits"], theirs.seq_relationship_logits)


@pytest.mark.parametrize(
    "name", ["MobileBertModel", "MobileBertForPreTraining"]
)
def test_we_open_the_peers_split_folder(name, padded_batch, tmp_path):
    peer = build_peer(name, 24)
    peer.save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / INDEX_FILE).exists()
    assert not (tmp_path / WEIGHTS_FILE).exists()
    model = mb.load(tmp_path)
    batch = padded_batch(SMALL.vocab_size)
    with torch.no_grad():
        theirs = peer(**for_peer(batch))
    if name == "MobileBertModel":
        assert_close(model(batch).sequence_output, theirs.last_hidden_state)
    else:
        ours = model(batch)
        assert_close(ours["masked_lm_logits"], theirs.prediction_logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_folder_is_read_as_float32(
    dtype, padded_batch, tmp_path
):
    peer = build_peer("MobileBertForMaskedLM", 24).to(dtype)
    peer.save_pretrained(tmp_path)
    batch = padded_batch(SMALL.vocab_size)
    ours = mb.load(tmp_path)(batch)
    with torch.no_grad():
        theirs = peer.float()(**for_peer(batch))
    assert_close(ours, theirs.logits)
