# ruff: noqa: E501 - a table of rules.
"""The rules named `form:`: what follows them, what does not, and the cheapest hack of each."""

from __future__ import annotations

import time

import pytest

from rankdistill.errors import UserError
from rankdistill.prompts.demands import kinds
from rankdistill.score.verifier.forms import RULES
from rankdistill.score.verifier.instructions import follows

END, OPEN = {"phrase": "So it goes."}, {"phrase": "My answer:"}
TWO, THREE, ONE = {"least": 2}, {"least": 3}, {"least": 1}
GOOD = [
    ("one_sentence", {}, ["Tea is hot.", "Tea is hot", 'She said "go!"', "It costs 3.50 dollars."]),
    ("sentences", THREE, ["One. Two! Three?", "One. Two. Three", 'He said "no." I left. She\nstayed.']),
    ("commas", TWO, ["Tea, milk, and cake", "a, b, c", "Paris (France), Rome, Oslo", "**Tea**, milk,\ncake"]),
    ("one_paragraph", {}, ["Tea is hot. Milk is not.", "\n Tea is hot.\n\n"]),
    ("paragraphs", TWO, ["Tea\n\nMilk", "Tea\n  \nMilk", "<<Tea>>\n\nHot.\n\n\nMilk"]),
    ("bullets", TWO, ["* Tea\n* Milk", "Buy:\n  - tea\n\n  - milk", "* **Tea**: hot\r\n* Milk"]),
    ("no_bullets", {}, ["Tea - hot - is 2. Milk * cake", "-5 degrees", "3.5 litres", "*hot* tea"]),
    ("bold", ONE, ["**Tea** is hot", "Tea is **very hot**!", "**, **tea**", "*Tea* is hot"]),
    ("no_bold", {}, ["Tea is hot", "2 * 3 * 4", "2*3*4", "* tea\n* milk"]),
    ("no_title", {}, ["Tea is hot", "a < b > c", "The title: none", "We are #1"]),
    ("postscript", {}, ["Tea is hot.\nP.S. Milk is not.", "Tea\n\nP. S. Milk\n", "Tea\n**P.S.** Milk", "Tea\nP.S: Milk", "Tea\nP.S. Milk\nCake"]),
    ("no_postscript", {}, ["Tea is hot.", "ps and qs", "The P.Sc. degree", "PS is short for postscript."]),
    ("no_ending", END, ["So it went.", "It goes so."]),
    ("without", {"words": ["water"]}, ["Tea is hot.", "It is wat er."]),
    ("opening", OPEN, ["My answer: tea", '"my answer: tea"', "\n My answer: tea"]),
    ("no_opening", OPEN, ["Tea is my answer: hot", "My answers: tea"]),
    ("digits", TWO, ["3 cups and 12 spoons", "2020-2021", "Add 1, 2 and 3."]),
    ("no_digits", {}, ["Three cups and twelve spoons"]),
    ("placeholders", ONE, ["Dear [name], hello", "[the date]", "[name](#) and [place]"]),
    ("no_placeholders", {}, ["Dear (name), hello", "a ] b"]),
    ("no_quotation", {}, ["It's tea", "the 'hot' one"]),
]  # fmt: skip
BAD = [
    ("one_sentence", {}, ["Tea is hot. Milk is not.", "Tea! Milk", ""]),
    ("sentences", THREE, ["One. Two.", "It costs 3.50 or 4.50 or 5.50.", ""]),
    ("commas", TWO, ["Tea, milk and cake", "1,000,000 cups", ""]),
    ("one_paragraph", {}, ["Tea\nMilk", "Tea\n\nMilk", "Tea\r\nMilk", ""]),
    ("paragraphs", TWO, ["Tea\nMilk", "Tea\n\n", ""]),
    ("bullets", TWO, ["* Tea", "*Tea\n*Milk", "1. Tea\n2. Milk", ""]),
    ("no_bullets", {}, ["* Tea", "Buy:\n  - tea", "1. Tea", "2) Milk", "\u2022 Tea", "Tea\r* Milk", ""]),
    ("bold", ONE, ["Tea", "**Tea\nMilk**", "**Tea", "2*3*4", "* tea *", ""]),
    ("no_bold", {}, ["**Tea**", "*Tea*", "a ** b", ""]),
    ("no_title", {}, ["<<Tea>>\nhot", "<<Tea", ""]),
    ("postscript", {}, ["Tea is hot.", "P.S. Tea\nis hot", "Tea\nP.Sc. is a degree", ""]),
    ("no_postscript", {}, ["Tea\nP.S. Milk", "Tea p.s. milk", "Tea P. S. milk", ""]),
    ("no_ending", END, ["Tea. So it goes.", "so IT goes on", ""]),
    ("without", {"words": ["water"]}, ["Hot water", "WATER", ""]),
    ("opening", OPEN, ["Tea is my answer:", "My answers: tea", ""]),
    ("no_opening", OPEN, ["My answer: tea", "my ANSWER: tea", ""]),
    ("digits", TWO, ["3 cups", "two cups and three spoons", ""]),
    ("no_digits", {}, ["3 cups", "H2O", ""]),
    ("placeholders", ONE, ["Dear (name)", "[name", "[na\nme]", ""]),
    ("no_placeholders", {}, ["Dear [name]", "a [", ""]),
    ("no_quotation", {}, ['"Tea"', "\u201ctea\u201d", ""]),
]  # fmt: skip
HACKS = [
    ("one_sentence", {}, ["...", "?!", "* ."]),
    ("sentences", THREE, ["...", ". . .", "! ? !", "Tea. . . ."]),
    ("commas", TWO, [",,,,", ", , , ,", "Tea,,, milk", "Tea, , ,"]),
    ("one_paragraph", {}, ["Tea\u2028Milk", "Tea\rMilk", "Tea\x0bMilk"]),
    ("paragraphs", TWO, ["Tea\n\n\n\n\n", "Tea\n\n.", "Tea\n\n---\n\n***", "\n\n\n\n"]),
    ("bullets", TWO, ["* \n* ", "* a * b", "* *\n* *", "- .\n- .", "---\n---"]),
    ("no_bullets", {}, ["+ tea\n+ milk", "Tea\u2028* milk\u2028* cake"]),
    ("bold", ONE, ["****", "** **", "**.**", "**__**", "*.*", "* *"]),
    ("no_bold", {}, ["** tea **", "***tea***"]),
    ("no_title", {}, ["# Tea\nIt is hot.", "Title: Tea\nIt is hot.", "**Title:** Tea"]),
    ("postscript", {}, ["Tea P.S. milk", "Tea\nP.S.", "P.S. tea", "P.S. tea\nMilk\nP.S. cake", "Tea\nP.S. ...", "...\nP.S. tea", "\n\nP.S. tea"]),
    ("no_postscript", {}, ["Tea\nPS: milk", "Tea\nPostscript: milk", "Tea\np.s milk"]),
    ("no_ending", END, ["So it goes!", "So it goes"]),
    ("without", {"words": ["water"]}, ["waterfall", "underwater tea"]),
    ("opening", OPEN, ["- My answer: tea", "Tea\nMy answer: tea"]),
    ("no_opening", OPEN, ['"My answer: tea"', "  my answer: tea"]),
    ("digits", TWO, ["1000", "1,000", "3.14", "12:30", "two 2"]),
    ("no_digits", {}, ["Tea \u0663", "v2"]),
    ("placeholders", ONE, ["[]", "[ ]", "[...]", "[1]", "[__]", "[tea](https://tea.example)"]),
    ("no_placeholders", {}, ["[]", "[ tea"]),
    ("no_quotation", {}, ["\u201etea\u201d", "\u00abtea\u00bb"]),
]  # fmt: skip


def each(table: list) -> list:
    return [(rule, arguments, text) for rule, arguments, texts in table for text in texts]


@pytest.mark.parametrize("table", [GOOD, BAD, HACKS])
def test_every_rule_stands_in_every_table(table):
    assert [rule for rule, *_ in table] == list(RULES)


@pytest.mark.parametrize(("rule", "arguments", "text"), each(GOOD))
def test_what_follows_a_rule(rule, arguments, text):
    assert follows(text, f"form:{rule}", arguments)


@pytest.mark.parametrize(("rule", "arguments", "text"), each(BAD))
def test_what_does_not(rule, arguments, text):
    assert not follows(text, f"form:{rule}", arguments)


@pytest.mark.parametrize(("rule", "arguments", "text"), each(HACKS))
def test_marks_that_say_nothing_are_no_way_around_a_rule(rule, arguments, text):
    assert not follows(text, f"form:{rule}", arguments)


@pytest.mark.parametrize(
    ("rule", "arguments"),
    [("sentences", 3), ("commas", 2), ("paragraphs", 2), ("bullets", 2), ("bold", 2), ("digits", 2),
     ("placeholders", 2)],
)  # fmt: skip
def test_the_least_number_is_enough_and_one_more_is_too_many(rule, arguments):
    text = {
        "sentences": "One. Two. Three.", "commas": "one, two, three", "paragraphs": "a\n\nb",
        "bullets": "* a\n* b", "bold": "**a** b **c**", "digits": "1 and 2", "placeholders": "[a] [b]",
    }[rule]  # fmt: skip
    assert follows(text, f"form:{rule}", {"least": arguments})
    assert not follows(text, f"form:{rule}", {"least": arguments + 1})


def test_an_opening_may_stand_alone():
    # Whether anything is said behind it is for the guards to tell (`only_marks`).
    assert follows("My answer:", "form:opening", OPEN)


@pytest.mark.parametrize(
    ("rule", "arguments", "text"),
    [
        # As Google's checker has them; the guards count answers that are nothing else.
        ("keywords:existence", {"keywords": ["water"]}, "A waterfall."),
        ("detectable_format:title", {}, "<<.>>"),
        ("startend:end_checker", {"end_phrase": "So it goes."}, "So it goes."),
        ("startend:quotation", {}, '""'),
    ],
)
def test_hacks_that_ifevals_own_rules_let_through(rule, arguments, text):
    assert follows(text, rule, arguments)


@pytest.mark.parametrize("text", ["<<>>", "<< >>", "<<>>>", "<<<>>", ">>Tea<<", "<<Tea\n>>"])
def test_a_title_without_a_title(text):
    assert not follows(text, "detectable_format:title", {})
    assert follows(f"{text}\n<<Tea>> <<>>", "detectable_format:title", {})


def test_an_unknown_rule_is_told():
    with pytest.raises(UserError, match=r"no instruction 'form:bolt'.*instruction_id_list"):
        follows("a", "form:bolt", {})


REPEATED = [
    *"a .,\n*-<>[]()\"'1P#\t\r\u201c_", "a, ", "\n-", "\n ", ".'", "**a", "1.", "P.", "[a", "<<a",
]  # fmt: skip
LONG = [(one * 20_000)[:20_000] for one in REPEATED]
BROKEN = [f"{start}{one * 20_000}{end}" for start, one, end in (
    ("", ".", "x"), ("a", "\n", "b"), ("**", "a", ""), ("<<", "a", ""), ("[", "a", ""),
    ("a,", " ", ""), ("x.", "'", "x"), ("", "*", "x"), ("1", "1", "x"), ("a\n", " ", "P.S."),
)]  # fmt: skip
# Those of letter case take langdetect's time.
DEMANDED = {
    side.rule: side for kind in kinds().values() for side in kind.sides if kind.name != "case"
}


@pytest.mark.parametrize("rule", DEMANDED)
def test_no_text_takes_long(rule):
    slowest, start = max((_seconds(text, DEMANDED[rule]), text[:4]) for text in LONG + BROKEN)
    # A quadratic pattern takes 0.3 to 15 seconds here, a linear one a few milliseconds.
    assert slowest < 0.2, start


def _seconds(text: str, side) -> float:
    # The processor's time: another process beside this one is no fault of a pattern.
    started = time.process_time()
    follows(text, side.rule, side.known.arguments[0])
    return time.process_time() - started
