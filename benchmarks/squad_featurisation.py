r"""How long it takes to make model inputs of SQuAD's dev set.

    python benchmarks/squad_featurisation.py --questions=dev-v1.1.json \
        --vocab_file=vocab.txt

reads the questions (by default those in the folder that MOBILEBERT_TF_DATA
names) and makes all windows at 384 columns, a new one every 128 pieces, with
the masks that choosing answers needs. Where Hugging Face transformers is
installed its fast tokenizer does the same beside, with the padding and overflow
that its question answering example uses. Each is given `--repeats` turns, one
after the other in turn; the best and the median count.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

from mobilebert_tf.tasks.squad import Questions, read_squad
from mobilebert_tf.tasks.squad_windows import SquadSettings, make_windows
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

SETTINGS = SquadSettings(384, 128, 64)
_DATA = os.environ.get("MOBILEBERT_TF_DATA", "data")
_VOCABULARY = f"{_DATA}/vocab/bert-base-uncased-vocab.txt"


def our_windows(questions: Questions, tokenizer: WordpieceTokenizer) -> int:
    """Makes the inputs and masks of all windows; returns their number."""
    windows = make_windows(questions, tokenizer, SETTINGS)
    windows.inputs()
    windows.max_context_mask()
    return len(windows)


def hugging_face_windows(questions: Questions, tokenizer) -> int:
    """The same by a fast tokenizer, whose stride is the overlap."""
    contexts = [questions.context(index) for index in range(len(questions))]
    encoded = tokenizer(
        questions.texts,
        contexts,
        truncation="only_second",
        max_length=SETTINGS.max_seq_length,
        stride=SETTINGS.doc_stride,
        padding="max_length",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return len(encoded["input_ids"])


def hugging_face_tokenizer(vocab: tuple[str, ...]):
    """The peer's tokenizer, or None where it is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    ids = {piece: index for index, piece in enumerate(vocab)}
    return transformers.BertTokenizerFast(vocab=ids, do_lower_case=True)


def main() -> None:
    """Times reading and both featurisers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", default=f"{_DATA}/squad/dev-v1.1.json")
    parser.add_argument("--vocab_file", default=_VOCABULARY)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    started = time.perf_counter()
    questions = read_squad(arguments.questions)
    reading = time.perf_counter() - started
    print(f"read and checked {len(questions):,} questions in {reading:.2f} s")

    tokenizer = WordpieceTokenizer.from_vocab_file(arguments.vocab_file)
    runners: dict[str, Callable[[], int]] = {
        "mobilebert_tf": lambda: our_windows(questions, tokenizer)
    }
    peer = hugging_face_tokenizer(tokenizer.vocab)
    if peer is None:
        print("Hugging Face transformers is not installed: ours alone")
    else:
        runners["transformers"] = lambda: hugging_face_windows(questions, peer)
    seconds = {name: [] for name in runners}
    for _ in range(arguments.repeats):
        for name, run in runners.items():
            started = time.perf_counter()
            number = run()
            seconds[name].append(time.perf_counter() - started)
            print(f"{name}: {number:,} windows in {seconds[name][-1]:.2f} s")
    for name, times in seconds.items():
        print(
            f"{name}: best {min(times):.2f} s, "
            f"median {statistics.median(times):.2f} s"
        )
    if peer is not None:
        ratio = min(seconds["transformers"]) / min(seconds["mobilebert_tf"])
        print(f"transformers takes {ratio:.1f} times as long")


if __name__ == "__main__":
    main()
