"""The report: one file that needs no other, with the folders' numbers."""

import base64
import re
import types
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.stats

from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.tools import report_page
from mobilebert_tf.tools.demo_results import read_rows, seed_folder
from mobilebert_tf.tools.report import read_commands, write_report
from mobilebert_tf.tools.report_attention import (
    attention_difference,
    attention_maps,
    example_sentence,
)
from mobilebert_tf.tools.report_plots import wilson_interval
from tests.tools.conftest import write_demo

PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Collects what a page shows and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.rows, self.open = [], [], [], []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "img":
            assert attributes["alt"]
            self.sources.append(attributes["src"])
        if "href" in attributes or tag in ("link", "script", "iframe"):
            self.links.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_the_report_stands_alone(demo_dir, splits):
    path = write_report(demo_dir, [read_rows(demo_dir)], splits)
    content = path.read_text(encoding="utf-8")
    page = Page(content)
    assert page.open == [] and page.links == []
    assert "url(" not in content and "@import" not in content
    # Accuracies, two of losses, and the attention of three models.
    assert len(page.sources) == 6
    for source in page.sources:
        head, data = source.split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(PNG)
    row = ["student, distilled", "4,321", "25.0", "65.0", "66.0", "0.02"]
    assert row in page.rows
    assert "2 and 3 held-out" in page.text
    assert "'--model=demo/student & co'" in page.text
    assert "beats the same student" in page.text


def test_the_report_of_several_seeds(tmp_path, splits):
    demo_dir = write_demo(tmp_path)
    write_demo(seed_folder(demo_dir, 2), shift=0.02)
    seeds = [read_rows(seed_folder(demo_dir, seed)) for seed in (1, 2)]
    page = Page(write_report(demo_dir, seeds, splits).read_text())
    assert ["student, distilled", "66.0", "68.0", "67.0"] in page.rows
    assert "mean of 2 seeds" in page.text


def test_commands_come_from_the_cards(demo_dir):
    commands = read_commands(demo_dir)
    assert commands[1] == "python run_student.py --output_dir=demo/student"
    assert len(commands) == 6
    (demo_dir / "student" / "README.md").write_text("# Nothing\n")
    with pytest.raises(InputError, match="student/README.md"):
        read_commands(demo_dir)


def test_text_is_escaped():
    hostile = "<script>alert('&')</script>"
    page = Page(
        report_page.page(
            hostile,
            report_page.heading(hostile),
            report_page.paragraph(hostile),
            report_page.note_list([hostile]),
            report_page.table([hostile], [[hostile]]),
            report_page.commands([hostile]),
        )
    )
    assert page.links == []
    assert page.text.count(hostile) == 8


@pytest.mark.parametrize("right, number", [(1450, 2000), (0, 50), (50, 50)])
def test_wilson_interval_is_scipys(right, number):
    wanted = scipy.stats.binomtest(right, number).proportion_ci(method="wilson")
    found = wilson_interval(right / number, number)
    np.testing.assert_allclose(found, (wanted.low, wanted.high), atol=1e-7)


def test_attention_difference_by_hand():
    same = np.zeros((1, 1, 1, 2, 2))
    same[..., 0] = 1.0
    other = same.copy()
    other[..., 0, :] = [0.25, 0.75]
    # The second query agrees; where it is padding only the first counts.
    assert attention_difference(same, other, np.array([[1, 1]])) == 0.375
    assert attention_difference(same, other, np.array([[1, 0]])) == 0.75
    assert attention_difference(same, same, np.array([[1, 1]])) == 0.0


def test_attention_maps_are_by_sequence_block_and_head():
    def encoder(inputs, training):
        assert training is False
        blocks = [np.full((2, 4, 5, 5), block) for block in range(3)]
        return types.SimpleNamespace(attention_probs=tuple(blocks))

    maps = attention_maps(encoder, {"input_ids": np.zeros((2, 5))})
    assert maps.shape == (2, 3, 4, 5, 5)
    assert maps[1, 2].max() == maps[1, 2].min() == 2


def test_the_example_sentence_has_a_legible_length():
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c . !".split()
    tokenizer = WordpieceTokenizer(words)
    texts = ["a b. " + "a " * 9 + ". b c!", "c " * 30]
    assert example_sentence(texts, tokenizer) == "a " * 9 + "."


def test_headers_of_two_lines():
    assert re.search(r"dev<br>%", report_page.table(["dev\n%"], []))
