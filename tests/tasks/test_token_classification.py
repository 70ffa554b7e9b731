"""Taggers: the loss, predictions in their places, and what a task decides."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.special

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.losses import dividing_by
from mobilebert_tf.modeling.models import MobileBertForTokenClassification
from mobilebert_tf.tasks.conll import Sentences, read_sentences
from mobilebert_tf.tasks.tagging import (
    SentenceSource,
    TokenClassificationTask,
    TokenPredictor,
    build_tagger,
    encode_sentences,
    read_task,
    saved_tags,
    token_classification_loss,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.fine_tuning import (
    FineTuningOptions,
    FineTuningRun,
    Point,
)
from mobilebert_tf.training.options import RunOptions
from tests.training.classifiers import toy_config

NAMES = ("O", "B-X", "I-X")
VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d ##b ##c ##d".split()
ALL = (True, True, True)
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.0,
}


@pytest.fixture(scope="module")
def tokenizer():
    return WordpieceTokenizer(VOCAB)


def toy_tagger():
    config = toy_config(vocab_size=len(VOCAB), **NO_DROPOUT)
    return MobileBertForTokenClassification(config, NAMES)


def toy_sentences(number, seed=0):
    """A `b` begins what all following `c` go on with."""
    rng = np.random.default_rng(seed)
    tokens, tags = [], []
    for _ in range(number):
        some = rng.choice(
            ["a", "b", "c", "d", "ab", "bcd"], rng.integers(1, 30)
        )
        tokens.append(some.tolist())
        tags.append([])
        for token in tokens[-1]:
            goes_on = tags[-1] and tags[-1][-1] != "O" and token == "c"
            inside = "I-X" if goes_on else "O"
            tags[-1].append("B-X" if token == "b" else inside)
    return Sentences("toy", tokens, tags, list(range(1, number + 1)))


def toy_task(tokenizer, **numbers):
    sentences = {
        split: toy_sentences(number, seed)
        for seed, (split, number) in enumerate(numbers.items())
    }
    arrays = {
        split: encode_sentences(s.tokens, s.tags, tokenizer, 24, NAMES).arrays
        for split, s in sentences.items()
    }
    return TokenClassificationTask(NAMES, sentences, arrays, "iob2")


def test_the_loss_is_the_mean_over_tokens(tokenizer):
    """Of all tokens alike, not of windows, and whatever the batch's width."""
    tokens = [["ab", "c", "bcd"], ["d"]]
    tags = [["B-X", "I-X", "O"], ["B-X"]]
    batch = encode_sentences(tokens, tags, tokenizer, 24, NAMES).arrays
    model = toy_tagger()
    logits = model(batch, training=False).numpy().astype(np.float64)
    log_probs = scipy.special.log_softmax(logits, axis=-1)
    places = [(0, 1, 1), (0, 3, 2), (0, 4, 0), (1, 1, 1)]
    wanted = -np.mean([log_probs[place] for place in places])
    compute_loss = token_classification_loss(model)
    np.testing.assert_allclose(compute_loss(batch)["loss"], wanted, rtol=1e-5)
    # As the input pipeline has it: inputs are cut, labels are not.
    cut = {
        name: array if name.startswith("label") else array[:, :8]
        for name, array in batch.items()
    }
    np.testing.assert_allclose(compute_loss(cut)["loss"], wanted, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("widths", [(), (8, 16)])
def test_logits_are_those_of_the_tokens_in_order(tokenizer, batch_size, widths):
    sentences = toy_sentences(9)
    arrays = encode_sentences(sentences.tokens, None, tokenizer, 24).arrays
    model = toy_tagger()
    found = TokenPredictor(model, batch_size, widths)(arrays)
    wanted = []
    for row, weights in enumerate(arrays["label_weights"]):
        inputs = {name: arrays[name][row : row + 1] for name in arrays}
        logits = model(inputs, training=False).numpy()[0]
        wanted += [logits[column] for column in np.flatnonzero(weights)]
    assert found.shape == (sentences.num_tokens, 3)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def start(task, folder, epochs, seed=3):
    keras.utils.set_random_seed(seed)
    model = toy_tagger()
    return FineTuningRun(
        model,
        task,
        Point(0.01, 8, epochs, seed),
        FineTuningOptions(
            optimizer_settings={"bias_correction": True},
            eval_batch_size=8,
            bucket_lengths=(12,),
        ),
        folder,
        {},
        {"options": RunOptions(5, 1000.0)},
        token_classification_loss(model),
        TokenPredictor,
    )


def test_a_tagger_learns_what_context_tells(tokenizer, tmp_path):
    task = toy_task(tokenizer, train=240, dev=40)
    result = start(task, tmp_path, epochs=8).train()
    assert set(result["metrics"]) == {
        "dev_precision",
        "dev_recall",
        "dev_f1",
        "dev_accuracy",
    }
    assert result["score"] == result["metrics"]["dev_f1"]
    # A `c` is O or I-X by what precedes it: a list of tokens cannot know.
    assert result["score"] > 0.9


def test_parts_of_a_batch_add_up(tokenizer):
    """Half a batch may hold most of its tokens."""
    model, sentences = toy_tagger(), toy_sentences(8)
    batch = encode_sentences(
        sentences.tokens, sentences.tags, tokenizer, 24, NAMES
    ).arrays
    compute_loss = token_classification_loss(model)
    total = 0.0
    for first, last in ((0, 2), (2, len(batch["labels"]))):
        part = {name: array[first:last] for name, array in batch.items()}

        def sum_of_weights(weights, part=part):
            # A step knows the sums of entries of the batch only.
            assert weights is part["label_weights"]
            return batch["label_weights"].sum()

        with dividing_by(len(batch["labels"]), sum_of_weights):
            total += compute_loss(part)["loss"]
    np.testing.assert_allclose(total, compute_loss(batch)["loss"], rtol=1e-5)


def test_what_is_predicted_is_written_and_scored(tokenizer, tmp_path, capsys):
    task = toy_task(tokenizer, train=20, dev=12, predict=6)
    bare = {n: a for n, a in task.splits["predict"].items() if n != "labels"}
    task.splits["predict"] = bare

    def rightly(arrays):
        labels = arrays.get("labels", np.zeros_like(arrays["label_weights"]))
        return np.eye(3)[labels[arrays["label_weights"] > 0]]

    assert task.num_train_examples == len(task.splits["train"]["labels"])
    assert task.labelled("predict") == {}
    results = task.finish(rightly, tmp_path, ALL)
    assert results == {
        f"dev_{name}": 1.0 for name in ("precision", "recall", "f1", "accuracy")
    }
    assert results == task.metrics(rightly, "dev")
    read = read_sentences(tmp_path / "dev_predictions.conll")
    assert read.tokens == task.sentences["dev"].tokens
    assert read.tags == task.sentences["dev"].tags
    read = read_sentences(tmp_path / "predictions.conll")
    assert read.tokens == task.sentences["predict"].tokens
    assert {tag for tags in read.tags for tag in tags} == {"O"}
    shown = capsys.readouterr().out
    assert "dev X: precision 100.00  recall 100.00  f1 100.00" in shown
    assert "dev, each token's usual tag: precision " in shown
    assert task.finish(rightly, tmp_path / "none", (True, False, False)) == {}
    assert not (tmp_path / "none").exists()


def test_tags_that_are_no_entities_are_scored_by_accuracy(tokenizer):
    sentences = Sentences("x", [["a", "b"]], [["NN", "VB"]], [1])
    names = ("NN", "VB")
    arrays = encode_sentences(
        sentences.tokens, sentences.tags, tokenizer, 8, names
    ).arrays
    task = TokenClassificationTask(
        names, {"dev": sentences}, {"dev": arrays}, "none"
    )
    metrics = task.metrics(lambda arrays: np.eye(2)[[0, 0]], "dev")
    assert metrics == {"dev_accuracy": 0.5} and task.score(metrics) == 0.5


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A pre-trained model's."""
    folder = tmp_path / "encoder"
    MobileBertEncoder(toy_config(vocab_size=len(VOCAB))).save_pretrained(folder)
    tokenizer.write(folder)
    return folder


def files(folder, **contents):
    paths = {}
    for split, content in contents.items():
        paths[split] = folder / f"{split}.conll"
        paths[split].write_text(content)
    return SentenceSource(paths)


def test_a_task_is_read(folder, tokenizer, capsys):
    source = files(
        folder,
        train="a O\nb B-X\nc I-X\n\nd O\n",
        dev="a O\nb B-X\n",
        test="a\n",
        predict="d\n\n" + "ab\n" * 30,
    )
    # Not evaluated: the test file is not even looked at.
    task = read_task(source, (True, False, True), folder, tokenizer, 24)
    assert task.label_names == NAMES and task.scheme == "iob2"
    assert list(task.splits) == ["train", "dev", "predict"]
    assert "predict: 2 sentences, 31 tokens, 6 windows (1" in (
        capsys.readouterr().out
    )


def test_fewer_sentences_have_the_tags_of_all(folder, tokenizer):
    source = files(folder, train="a O\n\nb B-X\nc I-X\n")
    source = dataclasses.replace(source, max_train_examples=1)
    task = read_task(source, ALL, folder, tokenizer, 24)
    assert task.label_names == NAMES and task.num_train_examples == 1
    assert task.sentences["train"].tokens == [["a"]]


BAD = {
    "a tag that train has not": (
        {"train": "a O\nb B-X\n", "dev": "a O\nb B-Y\n"},
        "dev.conll, line 2: expected a tag that the model knows: O, B-X, found "
        "'B-Y'",
    ),
    "another scheme": (
        {"train": "a O\nb B-X\nc I-X\n", "dev": "a O\nb I-X\n"},
        "dev.conll, line 2: expected B-X after O, found I-X",
    ),
    "a single tag": (
        {"train": "a O\nb O\n"},
        "train.conll: expected at least two different tags, found O",
    ),
    "nothing to train on": (
        {"dev": "a O\nb B-X\n"},
        "--train_file: expected a file, or --nodo_train, found none",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_tasks_that_cannot_be_learned(folder, tokenizer, case):
    contents, message = BAD[case]
    with pytest.raises(InputError, match=message):
        read_task(files(folder, **contents), ALL, folder, tokenizer, 24)


def test_the_head_is_kept_or_new(folder, tokenizer, tmp_path):
    assert saved_tags(folder) is None
    source = files(folder, predict="a\n", train="a O\nb B-X\n")
    with pytest.raises(InputError, match="expected a tagger, found another"):
        read_task(source, (False, True, True), folder, tokenizer, 24)
    model = build_tagger(folder, NAMES)
    kernel = model.head.dense.kernel
    kernel.assign(np.full(kernel.shape, 0.25))
    tagger = tmp_path / "tagger"
    model.save_pretrained(tagger)
    assert saved_tags(tagger) == NAMES
    # Trained on with fewer tags, it keeps its own.
    task = read_task(source, ALL, tagger, tokenizer, 24)
    assert task.label_names == NAMES
    again = build_tagger(tagger, task.label_names)
    np.testing.assert_array_equal(again.head.dense.kernel.numpy(), 0.25)
    other = files(folder, train="a O\nb B-Y\n")
    task = read_task(other, ALL, tagger, tokenizer, 24)
    assert task.label_names == ("O", "B-Y")
    again = build_tagger(tagger, task.label_names)
    assert again.head.dense.kernel.shape == (16, 2)
    # Without training, its tags are all there is.
    source = files(folder, dev="a O\nb B-Y\n")
    with pytest.raises(InputError, match="line 2: expected a tag that the mod"):
        read_task(source, (False, True, True), tagger, tokenizer, 24)


def test_several_runs_need_something_to_choose_by(tokenizer):
    task = toy_task(tokenizer, train=4)
    task.check_choice(1, None)
    for choice in ((2, None), (1, 3)):
        with pytest.raises(InputError, match="--dev_file: expected sentences"):
            task.check_choice(*choice)
    toy_task(tokenizer, train=4, dev=2).check_choice(2, 3)
