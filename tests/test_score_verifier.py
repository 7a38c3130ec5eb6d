# ruff: noqa: E501 - a table of instructions.
"""Rules: numbers, maths, patterns, schemas, IFEval, reasoning-gym, the user's own."""

from __future__ import annotations

import json
import math
import os
import py_compile
import sys
from fractions import Fraction

import pytest
from judge_data import group, judged, scorer, values

from rankdistill.errors import UserError
from rankdistill.score.verifier.answers import final_number
from rankdistill.score.verifier.degenerate import is_loop
from rankdistill.score.verifier.instructions import follows


def scores(texts, columns, **changes):
    rows = [{**group("p", *texts), "columns": json.dumps(columns)}]
    return values(judged(scorer("verifier", **changes), rows), "verifier")[0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Janet makes 9 * 2 = $<<9*2=18>>18 a day.\nA: 18", 18),
        ("so 5, no, 1,234.50 dollars.", Fraction("1234.5")),
        ("#### 42 (of 100)", 42),
        (r"\boxed{3/4} after 7 steps", Fraction(3, 4)),
        ("-7", -7),
        ("none", None),
    ],
)
def test_the_number_that_a_solution_ends_with(text, number):
    assert final_number(text) == number


def test_numbers_as_in_gsm8k():
    answer = {"answer": "16 - 3 - 4 = 9 ... \n#### 18"}
    assert scores(["It is 18.", "$18.00", "19", "no idea"], answer) == [1.0, 1.0, 0.0, 0.0]


def test_maths_by_math_verify():
    pytest.importorskip("math_verify")
    found = scores(
        [r"It is $\frac{2}{4}$.", "$0.5$", "$0.6$"], {"answer": r"\frac{1}{2}"}, rule="math"
    )
    assert found == [1.0, 1.0, 0.0]


def test_patterns_fixed_and_of_the_prompt():
    assert scores(["yes!", "no"], {}, rule="regex", pattern=r"^yes\b") == [1.0, 0.0]
    assert scores(["b", "a"], {"answer": "^a"}, rule="regex") == [0.0, 1.0]


def test_json_schemas(tmp_path):
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    texts = ['{"a": 1}', 'Here:\n```json\n{"a": 2}\n```', '{"a": "x"}', "a"]
    for pattern in (json.dumps(schema), str(file)):
        assert scores(texts, {}, rule="json_schema", pattern=pattern) == [1.0, 1.0, 0.0, 0.0]


def test_what_python_alone_takes_for_json_is_none():
    texts = ["1.5", "1e400", "NaN", "[Infinity]", '```json\n{"a": -Infinity}\n```', '"NaN"']
    found = scores(texts, {}, rule="json_schema", pattern="{}")
    assert found == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    with pytest.raises(UserError, match="NaN is no JSON"):
        scorer("verifier", rule="json_schema", pattern='{"maximum": NaN}')


@pytest.mark.parametrize(
    ("name", "arguments", "good", "bad"),
    [
        ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "a b c", "a b"),
        ("length_constraints:number_words", {"relation": "less than", "num_words": 3}, "a b", "a b c"),
        ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3},
         "One. Two!", "One. Two! Three"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n\n***\nb"),
        ("length_constraints:nth_paragraph_first_word",
         {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}, "a\n\nthen, b", "then\n\na"),
        ("punctuation:no_comma", {}, "a b", "a, b"),
        ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "rocket", "a Rock."),
        ("keywords:existence", {"keywords": ["mom", "dad"]}, "Mom and dad", "mom"),
        ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": "at least"},
         "war War", "war"),
        ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "less than"},
         "!", "!!"),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 2},
         "*a* and **b c**", "*a* ** **"),
        ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
         "SECTION 1\nx\nSECTION 2\ny", "SECTION 1"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a"),
        ("detectable_format:title", {}, "<<A title>>\nx", "<< >>"),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
        ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a]"),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\nP.S. y", "x"),
        ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"},
         "GO NOW please", "GO now"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. There", "There"),
        ("combination:two_responses", {}, "a ****** b", "a ****** a"),
        ("startend:end_checker", {"end_phrase": "The end."}, "... the end.", "the end. Not"),
        ("startend:quotation", {}, '"a"', '"a'),
    ],
)  # fmt: skip
def test_ifevals_instructions(name, arguments, good, bad):
    assert follows(good, name, {**arguments, "num_bullets": arguments.get("num_bullets")})
    assert not follows(bad, name, arguments)
    assert not follows("   ", name, arguments)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("change_case:english_lowercase", "this is all in small letters", "This is not"),
        ("change_case:english_capital", "THIS IS ALL IN CAPITAL LETTERS", "THIS IS not"),
    ],
)
def test_ifevals_languages(name, good, bad):
    pytest.importorskip("langdetect")
    assert follows(good, name, {}) and not follows(bad, name, {})
    german = "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter."
    assert follows(german, "language:response_language", {"language": "de"})
    assert not follows(german, "language:response_language", {"language": "en"})


def test_the_share_of_instructions_that_is_followed():
    columns = {
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{}, {"num_words": None}],
    }
    assert scores(['"a"', '"a, b"', "a, b"], columns, rule="ifeval") == [1.0, 0.5, 0.0]


def test_reasoning_gyms_own_scores():
    gym = pytest.importorskip("reasoning_gym")
    entry = gym.create_dataset("leg_counting", size=1, seed=1)[0]
    right = entry["answer"]
    found = scores(
        [f"Hm. <answer>{right}</answer>", "<answer>x</answer>"], entry, rule="reasoning_gym"
    )
    assert found[0] == 1.0 and found[1] < 0.1


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_checks.py").write_text(
        "from os import system\n_hidden = lambda text, columns: 1\nnumber = 3\n"
        "def words(text, columns):\n    return len(text.split()) / columns['most']\n"
        "def one(text):\n    return 1\n"
        "def broken(text, columns):\n    return 1 / 0\n"
        "async def asked(text, columns):\n    return 1\n"
        "def given(text, columns):\n    yield 1\n"
        "async def streamed(text, columns):\n    yield 1\n"
    )
    (tmp_path / "broken_checks").mkdir()
    (tmp_path / "broken_checks" / "__init__.py").write_text("raise RuntimeError('no luck')")
    portion = tmp_path / "site-packages" / "portions"
    portion.mkdir(parents=True)
    (portion / "loud.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(portion.parent))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "own_checks.py"
    sys.modules.pop("own_checks", None)


def test_a_function_of_the_users(own):
    assert scores(["a b", "a"], {"most": 2}, rule="own_checks:words") == [1.0, 0.5]
    before = scorer("verifier", rule="own_checks:words").identity
    own.write_text(own.read_text() + "# changed\n")
    assert scorer("verifier", rule="own_checks:words").identity != before


def test_bytecode_of_another_source_is_not_its(own):
    """Python itself takes it: both have one size and one second, as the files of an archive."""
    source = "def check(text, columns):\n    return {}\n"
    for value in (1, 2):
        own.write_text(source.format(value))
        os.utime(own, (10**9, 10**9))
        if value == 1:
            py_compile.compile(str(own))
    assert scores(["a"], {"a": 1}, rule="own_checks:check") == [2.0]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("os:system", "belongs to Python itself"),
        ("builtins:eval", "belongs to Python itself"),
        ("subprocess:run", "belongs to Python itself"),
        ("importlib.util:find_spec", "belongs to Python itself"),
        ("test.support:anticipate_failure", "belongs to Python itself"),
        ("torch.hub:load", "belongs to an installed package"),
        ("rankdistill.store.files:link", "belongs to rankdistill"),
        ("portions.loud:check", "belongs to an installed package"),
        ("own_checks:system", "written in own_checks itself"),
        ("own_checks:_hidden", "leading underscore"),
        ("own_checks:number", "must be a function"),
        ("own_checks:__class__", "leading underscore"),
        ("own_checks:words.__globals__", "leading underscore"),
        ("../own_checks:words", "leading underscore"),
        ("own_checks:one", "must take two arguments"),
        ("own_checks:asked", "not as `async def` or with `yield`"),
        ("own_checks:given", "must return a number when it is called"),
        ("own_checks:streamed", "not as `async def`"),
        ("missing_checks:words", "not there as Python source"),
        (
            "broken_checks.inner:words",
            "broken_checks.inner of score.rule can't be imported: no luck",
        ),
        ("numbers", "did you mean 'number'"),
    ],
)
def test_what_is_unsafe_or_missing_is_refused_at_start_up(own, rule, told):
    with pytest.raises(UserError, match=told):
        scorer("verifier", rule=rule)


def test_what_is_wrong_for_every_response(own):
    with pytest.raises(UserError, match=r"needs the column 'answer' .*prompts.keep"):
        scores(["1"], {"other": 1})
    with pytest.raises(UserError, match=r"score.timeout_s is 0; it must be above 0"):
        scorer("verifier", timeout_s=0)
    with pytest.raises(UserError, match="no regular expression"):
        scorer("verifier", rule="regex", pattern="(")
    with pytest.raises(UserError, match=r"JSON schema .* is none"):
        scorer("verifier", rule="json_schema", pattern='{"type": "nothing"}')


def test_kept_columns_come_with_the_prompts(tmp_path, tokenizer):
    from rankdistill.prompts import load_prompts

    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "2 + 2?", "answer": "#### 4", "more": [1]}) + "\n")
    options = {
        "max_prompt_tokens": 99,
        "splits": {"train": 1.0},
        "limit": {"train": None},
        "seed": 0,
    }
    [prompt], _ = load_prompts(str(file), tokenizer, keep=["answer", "more"], **options)
    assert json.loads(prompt["columns"]) == {"answer": "#### 4", "more": [1]}
    with pytest.raises(UserError, match=r"'answers', which line 1 .* did you mean 'answer'"):
        load_prompts(str(file), tokenizer, keep=["answers"], **options)


TITLE = {"instruction_id_list": ["detectable_format:title"], "kwargs": [{}]}
WORDS = {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["garden"]}]}


@pytest.mark.parametrize(
    ("columns", "texts", "followed", "kept"),
    [
        (TITLE, ["<<Tea>>", "<<Tea>>\nIt is hot.", "It is hot."], [1, 1, 0], [0, 1, 0]),
        (WORDS, ["garden", "The garden.", "In my garden, roses grow."], [1, 1, 1], [0, 0, 1]),
        # Six trigrams, of which three are different: half occurred before.
        (WORDS, ["a garden grows a garden grows a garden"], [1], [0]),
        # Nothing that was asked for is in it: short is not degenerate.
        (WORDS, ["Paris.", "No"], [0, 0], [0, 0]),
    ],
)
def test_a_mark_alone_and_a_loop_follow_nothing_under_score_demands(columns, texts, followed, kept):
    assert scores(texts, columns, rule="ifeval") == followed
    assert scores(texts, columns, rule="ifeval", degenerate=0.0) == kept
    assert scores(texts, columns, rule="ifeval", degenerate=-1.0) == [
        -1 if yes != is_kept else is_kept for yes, is_kept in zip(followed, kept, strict=True)
    ]


def test_a_short_answer_without_a_mark_keeps_its_value():
    assert scores(["18", "**18**"], {"answer": "18"}, degenerate=0.0) == [1.0, 0.0]


def test_a_column_of_that_name_with_other_text_ends_no_run():
    columns = {"answer": "18", "kwargs": "none {"}
    assert scores(["18", "no no no no"], columns, degenerate=-1.0) == [1.0, -1.0]
    broken = {"instruction_id_list": ["detectable_format:title"], "kwargs": "none {"}
    assert all(map(math.isnan, scores(["<<Tea>>"], broken, rule="ifeval", degenerate=0.0)))
    # Nothing is taken out for an argument that is empty.
    blank = {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["tea", ""]}]}
    assert scores(["tea time"], blank, rule="ifeval", degenerate=0.0) == [0.0]


def test_a_loop_that_has_no_value_gets_none():
    nothing_asked = {"instruction_id_list": [], "kwargs": []}
    assert math.isnan(scores(["no no no no"], nothing_asked, rule="ifeval", degenerate=0.0)[0])


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("", False),
        ("no no", False),
        ("no no no no", True),
        ("One two three, four five six.", False),
        # Ten trigrams, three of which occurred before; then two.
        ("a b c d e f g a b c d e", True),
        ("a b c d e f g h a b c d", False),
    ],
)
def test_loops(text, loop):
    assert is_loop(text) is loop
