"""Everything the published models compute, against Hugging Face's PyTorch.

Weights travel in our model folder, so that each comparison also proves that
the folder's names, layouts and config mean the same to both.

Two things differ in the peer by design and are undone here: where norms are
layer norms, it leaves PyTorch's epsilon of 1e-5 in some of them; and it drops
the gradient of the [PAD] row.
"""

import functools

import numpy as np
import pytest
import torch
import transformers

import mobilebert_tf as mb
from mobilebert_tf.modeling.losses import masked_lm_loss
from mobilebert_tf.modeling.weight_names import match_weights
from tests import tiny
from tests.peers.weights import randomise

pytestmark = pytest.mark.peers

LIMIT = 1e-5  # of the tensor's largest value
PROBABILITY_LIMIT = 2e-6
GRADIENT_LIMIT = 1e-4

SMALL = mb.MobileBertConfig(
    vocab_size=300,
    embedding_size=24,
    hidden_size=64,
    intra_bottleneck_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_feedforward_networks=3,
    max_position_embeddings=40,
)


def open_in_peer(folder, name):
    peer, report = getattr(transformers, name).from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[problem], report
    for module in peer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12
    return peer.eval()


def for_peer(batch):
    names = {
        "input_ids": "input_ids",
        "input_mask": "attention_mask",
        "segment_ids": "token_type_ids",
    }
    return {
        names[name]: torch.tensor(np.asarray(value), dtype=torch.long)
        for name, value in batch.items()
    }


@pytest.mark.parametrize(
    "preset", ["mobilebert", "mobilebert_tiny", "mobilebert_without_opt"]
)
def test_whole_pretraining_model_agrees(
    preset, rng, padded_batch, differences, tmp_path
):
    config = mb.MobileBertConfig.from_preset(preset)
    model = mb.MobileBertForPretraining(config)
    randomise(model, rng)
    model.save_pretrained(tmp_path)
    peer = open_in_peer(tmp_path, "MobileBertForPreTraining")
    batch = padded_batch(config.vocab_size)
    ours = model.encoder(batch)
    our_logits = model.heads(ours)
    with torch.no_grad():
        theirs = peer(
            **for_peer(batch), output_hidden_states=True, output_attentions=True
        )
        pooled = peer.mobilebert.pooler(theirs.hidden_states[-1])
    note = functools.partial(differences, "Hugging Face", preset)

    assert len(ours.feature_maps) == config.num_hidden_layers + 1
    maps = zip(ours.feature_maps, theirs.hidden_states, strict=True)
    for block, (our_map, their_map) in enumerate(maps):
        found = note("feature maps", our_map, their_map)
        assert found <= LIMIT, f"feature map {block}"
    probs = zip(ours.attention_probs, theirs.attentions, strict=True)
    for block, (our_probs, their_probs) in enumerate(probs):
        found = note("probabilities", our_probs, their_probs, relative=False)
        assert found <= PROBABILITY_LIMIT, f"block {block}"
    for what, our_tensor, their_tensor in (
        ("pooled", ours.pooled_output, pooled),
        ("MLM logits", our_logits["masked_lm_logits"], theirs[0]),
        ("NSP logits", our_logits["next_sentence_logits"], theirs[1]),
    ):
        assert note(what, our_tensor, their_tensor) <= LIMIT, what


def task_model(name, config):
    if name in (
        "MobileBertForSequenceClassification",
        "MobileBertForTokenClassification",
    ):
        return getattr(mb, name)(config, ["no", "maybe", "yes"])
    return getattr(mb, name)(config)


def our_outputs(model, batch):
    outputs = model(batch)
    if isinstance(outputs, dict):
        return [outputs["start_logits"], outputs["end_logits"]]
    return [outputs]


def their_outputs(peer, batch):
    with torch.no_grad():
        outputs = peer(**for_peer(batch))
    if "start_logits" in outputs:
        return [outputs.start_logits, outputs.end_logits]
    return [outputs.logits]


TASKS = [
    "MobileBertForSequenceClassification",
    "MobileBertForTokenClassification",
    "MobileBertForQuestionAnswering",
    "MobileBertForMultipleChoice",
]


def task_batch(name, padded_batch):
    batch = padded_batch(SMALL.vocab_size)
    if name != "MobileBertForMultipleChoice":
        return batch
    other = padded_batch(SMALL.vocab_size)
    return {key: np.stack((batch[key], other[key]), axis=1) for key in batch}


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_task_models_agree(
    name, pooler, rng, padded_batch, differences, tmp_path
):
    config = mb.MobileBertConfig(
        **SMALL.to_dict() | {"classifier_activation": pooler}
    )
    model = task_model(name, config)
    randomise(model, rng)
    model.save_pretrained(tmp_path)
    peer = open_in_peer(tmp_path, name)
    batch = task_batch(name, padded_batch)
    ours, theirs = our_outputs(model, batch), their_outputs(peer, batch)
    for our_tensor, their_tensor in zip(ours, theirs, strict=True):
        found = differences(
            "Hugging Face", name, "logits", our_tensor, their_tensor
        )
        assert found <= LIMIT


@pytest.mark.parametrize("name", TASKS[:2])
def test_label_names_travel(name, tmp_path):
    task_model(name, SMALL).save_pretrained(tmp_path)
    peer = open_in_peer(tmp_path, name)
    assert peer.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert peer.config.label2id == {"no": 0, "maybe": 1, "yes": 2}


@pytest.mark.parametrize(
    "name, num_labels",
    [
        ("MobileBertModel", 2),
        ("MobileBertForPreTraining", 2),
        ("MobileBertForQuestionAnswering", 2),
        ("MobileBertForMultipleChoice", 2),
        ("MobileBertForSequenceClassification", 1),
        ("MobileBertForSequenceClassification", 2),
        ("MobileBertForTokenClassification", 2),
        ("MobileBertForTokenClassification", 3),
    ],
)
def test_we_open_the_peers_folder(name, num_labels, padded_batch, tmp_path):
    torch.manual_seed(1)
    # The peer's own defaults: a pooler, and two classes that it leaves unsaid.
    peer_config = transformers.MobileBertConfig(
        vocab_size=SMALL.vocab_size,
        hidden_size=64,
        embedding_size=24,
        intra_bottleneck_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_labels=num_labels,
    )
    peer = getattr(transformers, name)(peer_config).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    peer.save_pretrained(tmp_path)
    model = mb.load(tmp_path)
    assert model.architecture == name
    batch = task_batch(name, padded_batch)
    if name == "MobileBertModel":
        with torch.no_grad():
            outputs = peer(**for_peer(batch))
        theirs = [outputs.last_hidden_state, outputs.pooler_output]
        ours = model(batch)
        ours = [ours.sequence_output, ours.pooled_output]
    elif name == "MobileBertForPreTraining":
        with torch.no_grad():
            theirs = peer(**for_peer(batch))[:2]
        ours = model(batch)
        ours = [ours["masked_lm_logits"], ours["next_sentence_logits"]]
    else:
        ours, theirs = our_outputs(model, batch), their_outputs(peer, batch)
    for our_tensor, their_tensor in zip(ours, theirs, strict=True):
        their_tensor = their_tensor.numpy()
        scale = np.abs(their_tensor).max()
        assert np.abs(our_tensor - their_tensor).max() <= LIMIT * scale


@pytest.mark.parametrize(
    "changes",
    [
        {"use_bottleneck": False, "intra_bottleneck_size": 64},
        {"trigram_input": False, "hidden_act": "gelu_erf"},
        {"hidden_act": "relu6", "num_feedforward_networks": 1},
    ],
    ids=["plain BERT", "no trigram, exact gelu", "relu6, one network"],
)
def test_other_configs_agree(changes, rng, padded_batch, differences, tmp_path):
    config = mb.MobileBertConfig(**SMALL.to_dict() | changes)
    model = mb.MobileBertForPretraining(config)
    randomise(model, rng)
    model.save_pretrained(tmp_path)
    peer = open_in_peer(tmp_path, "MobileBertForPreTraining")
    batch = padded_batch(config.vocab_size)
    ours = model(batch)["masked_lm_logits"]
    with torch.no_grad():
        theirs = peer(**for_peer(batch)).prediction_logits
    found = differences(
        "Hugging Face", str(changes), "MLM logits", ours, theirs
    )
    assert found <= LIMIT


def our_gradients(model, batch, positions, labels):
    import tensorflow as tf

    weights = np.ones(labels.shape, "float32")
    with tf.GradientTape() as tape:
        outputs = model(batch | {"masked_lm_positions": positions})
        loss = masked_lm_loss(outputs["masked_lm_logits"], labels, weights)
    pairs = match_weights(model)
    gradients = tape.gradient(loss, [pair[0].value for pair in pairs])
    return {
        name: np.asarray(tf.convert_to_tensor(gradient)).T
        if transposed
        else np.asarray(tf.convert_to_tensor(gradient))
        for gradient, (_, name, transposed) in zip(
            gradients, pairs, strict=True
        )
        if gradient is not None
    }


def their_gradients(peer, batch, positions, labels):
    peer.mobilebert.embeddings.word_embeddings.padding_idx = None
    peer.requires_grad_(True)
    logits = peer(**for_peer(batch)).prediction_logits
    rows = torch.arange(len(positions))[:, None]
    picked = logits[rows, torch.tensor(positions, dtype=torch.long)]
    torch.nn.functional.cross_entropy(
        picked.flatten(0, 1), torch.tensor(labels.reshape(-1))
    ).backward()
    return {
        name: parameter.grad.numpy()
        for name, parameter in peer.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize(
    "preset", ["mobilebert", "mobilebert_tiny", "mobilebert_without_opt"]
)
def test_gradients_of_the_masked_lm_loss_agree(
    preset, rng, padded_batch, differences, tmp_path
):
    config = mb.MobileBertConfig.from_preset(
        preset, num_hidden_layers=3, vocab_size=3000
    )
    model = mb.MobileBertForPretraining(config)
    randomise(model, rng)
    model.save_pretrained(tmp_path)
    peer = open_in_peer(tmp_path, "MobileBertForPreTraining")
    batch = padded_batch(config.vocab_size)
    positions = np.array([[1, 5, 30], [20, 0, 7], [8, 2, 4]], "int32")
    labels = rng.integers(1, config.vocab_size, positions.shape)
    ours = our_gradients(model, batch, positions, labels)
    theirs = their_gradients(peer, batch, positions, labels)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        if name.endswith("attention.self.key.bias"):
            # It moves all logits of a row alike, which softmax cannot see:
            # both gradients are rounding noise around zero.
            query = np.abs(theirs[name.replace("key", "query")]).max()
            assert max(
                np.abs(ours[name]).max(), np.abs(gradient).max()
            ) < 1e-4 * max(query, 1e-4)
            continue
        found = differences(
            "Hugging Face", preset, "gradients", ours[name], gradient
        )
        assert found <= GRADIENT_LIMIT, name


@pytest.mark.parametrize("kind", ["np", "pt", None])
def test_its_tokenizers_output_is_taken_as_it_is(kind, rng, tmp_path):
    model = tiny.classifier()
    tiny.randomise(model, rng)
    tiny.write_folder(tmp_path, model)
    pairs = ["the cat sat.", "not good"], ["on a mat", "the mat"]
    encode = functools.partial(
        transformers.AutoTokenizer.from_pretrained(tmp_path),
        *pairs,
        padding=True,
    )
    peer = open_in_peer(tmp_path, "MobileBertForSequenceClassification")
    with torch.no_grad():
        theirs = peer(**encode(return_tensors="pt")).logits.numpy()
    found = tiny.numpy(model(encode(return_tensors=kind)))
    assert tiny.relative_error(found, theirs) < LIMIT
    assert (
        tiny.tokenizer()(*pairs)["input_ids"].tolist()
        == (encode()["input_ids"])
    )
