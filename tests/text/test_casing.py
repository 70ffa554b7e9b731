"""What uncased text loses is counted, said and, where it is much, refused."""

import re
import unicodedata

import pytest

from mobilebert_tf.commands.pretrain import VocabularyOptions, with_casing
from mobilebert_tf.data.options import TextOptions
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.casing import check_uncased
from mobilebert_tf.text.normalization import normalize

GERMAN = (
    "Die Möwe saß auf dem Hügel und sah auf das Meer hinaus, bis es Abend "
    "wurde und der Wind nachließ."
)
FRENCH = (
    "Le garçon regarde la mer calme et le soleil qui se couche derrière les "
    "collines, puis il rentre chez lui."
)
RUSSIAN = "Мой ёж пошёл домой, а другой остался."
HINDI = "पुस्तक पढ़ता है"
JAPANESE = "バスとパスを電車で待つ"


@pytest.mark.parametrize("line", [GERMAN, FRENCH])
def test_accents_of_european_languages_are_mentioned(line, capsys):
    check_uncased([line])
    said = capsys.readouterr().out
    letters = [c for c in unicodedata.normalize("NFD", line) if c.isalpha()]
    lost = len(unicodedata.normalize("NFD", line.lower())) - len(
        normalize(line)
    )
    rate = 100 * lost / len(letters)
    assert f"drops {rate:.1f} marks per 100 letters" in said
    assert "--nodo_lower_case" in said and said.count("\n") == 1


def test_text_without_marks_is_not_mentioned(capsys):
    check_uncased(["plain text, 博物館, 서울", "", "one café" + " plain" * 40])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("line", [HINDI, JAPANESE, RUSSIAN * 2])
def test_languages_that_need_their_marks(line):
    with pytest.raises(InputError, match="--do_lower_case: .*mostly") as error:
        check_uncased(iter([line]))
    rate = re.search(r"([\d.]+) marks per 100", str(error.value))[1]
    assert float(rate) > 5


def test_a_flag_decides(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(f"{HINDI}\n\n{HINDI}\n", encoding="utf-8")
    text = TextOptions(input_files=(str(path),))
    with pytest.raises(InputError, match="--nodo_lower_case"):
        with_casing(VocabularyOptions(), text)
    for lower in (True, False):
        vocabulary = VocabularyOptions(do_lower_case=lower)
        assert with_casing(vocabulary, text).do_lower_case is lower
    path.write_text("plain text\n")
    assert with_casing(VocabularyOptions(), text).do_lower_case is True
