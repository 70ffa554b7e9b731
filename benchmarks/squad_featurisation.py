r"""How long it takes to make model inputs of SQuAD's dev set.

    python -m benchmarks.squad_featurisation --questions=dev-v1.1.json \
        --vocab_file=vocab.txt

reads the questions (by default those in the folder that MOBILEBERT_TF_DATA
names) and makes all windows at 384 columns, a new one every 128 pieces, with
the masks that choosing answers needs. Where Hugging Face transformers is
installed its fast tokenizer does the same in turn, with the padding and
overflow that its question answering example uses.
"""

import dataclasses
import importlib.util
import time

from benchmarks.instruments import DATA, VOCABULARY, interleaved, start
from mobilebert_tf.options import Options, option
from mobilebert_tf.tasks.squad import Questions, read_squad
from mobilebert_tf.tasks.squad_windows import SquadSettings, make_windows
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

SETTINGS = SquadSettings(384, 128, 64)


@dataclasses.dataclass(frozen=True)
class FeaturisationOptions(Options):
    """What to read, and how often."""

    questions: str = option(f"{DATA}/squad/dev-v1.1.json", "SQuAD file.")
    vocab_file: str = option(f"{VOCABULARY}", "Vocabulary.")
    repeats: int = option(3, "Turns of each.", min=1)


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


def main(options: FeaturisationOptions) -> None:
    """Times reading, then both featurisers in turn."""
    started = time.perf_counter()
    questions = read_squad(options.questions)
    reading = time.perf_counter() - started
    print(f"read and checked {len(questions):,} questions in {reading:.2f} s")
    tokenizer = WordpieceTokenizer.from_vocab_file(options.vocab_file)
    runners = {"mobilebert_tf": lambda: our_windows(questions, tokenizer)}
    if importlib.util.find_spec("transformers"):
        import transformers

        ids = {piece: index for index, piece in enumerate(tokenizer.vocab)}
        peer = transformers.BertTokenizerFast(vocab=ids, do_lower_case=True)
        runners["transformers"] = lambda: hugging_face_windows(questions, peer)
    for name, run in runners.items():
        print(f"{name}: {run():,} windows")
    times = interleaved(runners, options.repeats, warm_up=0)
    best = times["mobilebert_tf"]["min_ms"]
    for name, row in times.items():
        print(
            f"{name:<14} best {row['min_ms'] / 1e3:.2f} s, median "
            f"{row['median_ms'] / 1e3:.2f} s, {row['min_ms'] / best:.1f} times "
            "as long as ours"
        )


if __name__ == "__main__":
    start(main, FeaturisationOptions, __doc__)
