"""Arguments of a chat template, as `enable_thinking`: of student, teacher, base and judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trl
from fake_endpoint import FakeEndpoint
from judge_data import scorer
from test_imported_answers import ASK
from test_models_check import run_of
from test_models_tokenizer import saved
from test_score_reward_model import reward_model
from tiny_models import build_tokenizer, model_in
from tiny_run import TINY, refusal

from rankdistill.errors import UserError
from rankdistill.models import encode_answers, encode_prompt, load_tokenizer, written_with
from rankdistill.models.template import with_arguments
from rankdistill.score.judge.verdicts import RATINGS

KEY = "student.chat_template_kwargs"
QUIET = {"enable_thinking": False}
THOUGHTFUL = """{%- macro opened() -%}
    {% if enable_thinking is defined and not enable_thinking %}<no>{% else %}<think>{% endif %}
{%- endmacro %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{{ opened() }}{% endif %}"""
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))


def thoughtful(folder: Path) -> Path:
    saved(folder, chat_template=THOUGHTFUL)
    return folder


@pytest.mark.parametrize("value", [True, False])
def test_a_template_with_an_argument_is_what_apply_chat_template_makes_of_it(value):
    tokenizer = build_tokenizer()
    templates = {file.name: file.read_text() for file in TEMPLATES}
    read = {n: text for n, text in templates.items() if "enable_thinking is defined" in text}
    assert len(read) > 5
    for name, text in [*read.items(), ("ours", THOUGHTFUL), ("begins a line", "\n" + THOUGHTFUL)]:
        given = with_arguments(text, {"enable_thinking": value}, name)
        plain = {"conversation": ASK, "tokenize": False, "add_generation_prompt": True}
        expected = tokenizer.apply_chat_template(chat_template=text, enable_thinking=value, **plain)
        assert tokenizer.apply_chat_template(chat_template=given, **plain) == expected, name
        # A caller that gives the argument itself, as a server's request may, has the last word.
        other = tokenizer.apply_chat_template(
            chat_template=text, enable_thinking=not value, **plain
        )
        asked = tokenizer.apply_chat_template(
            chat_template=given, enable_thinking=not value, **plain
        )
        assert asked == other, name


def test_every_rendering_of_a_model_has_them(tmp_path):
    model = model_in(thoughtful(tmp_path))
    assert written_with(model, None, None, KEY) == model == written_with(model, None, {}, KEY)
    quiet = written_with(model, None, QUIET, KEY)
    assert quiet.identity == {**model.identity, "chat_template_kwargs": QUIET}
    assert written_with(model, None, QUIET, KEY).path == quiet.path != model.path
    tokenizer = quiet.tokenizer()
    assert tokenizer.decode(encode_prompt(tokenizer, ASK)).endswith("assistant\n<no>")
    assert model.tokenizer().decode(encode_prompt(model.tokenizer(), ASK)).endswith("<think>")
    prompt, [answer] = encode_answers(tokenizer, ASK, ["Yes"])
    assert tokenizer.decode([*prompt, *answer]).endswith("assistant\nYes<|im_end|>")
    tokenizer.save_pretrained(tmp_path / "exported")  # they go with the models that a run saves
    (tmp_path / "exported/config.json").write_text('{"model_type": "llama"}')
    exported = load_tokenizer(str(tmp_path / "exported"))
    assert exported.decode(encode_prompt(exported, ASK)).endswith("<no>")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"enable_thinkin": False}, "reads no 'enable_thinkin': did you mean 'enable_thinking'"),
        ("false", r"is false: give names and values, as in 'student.chat_template_kwargs=\{enable"),
        ({"messages": []}, "gives 'messages', which each conversation has of its own"),
    ],
)
def test_what_the_template_does_not_read_is_refused(given, told, tmp_path):
    with pytest.raises(UserError, match=told):
        written_with(model_in(thoughtful(tmp_path)), None, given, KEY)


def test_what_a_template_names_itself_is_no_argument():
    loop = "{% for key, m in messages %}{%- set said = m %}{{ said }}{% endfor %}"
    with pytest.raises(UserError, match="reads no 'a': it reads none"):
        with_arguments(loop, {"a": 1}, "one")


def test_student_and_teacher_have_their_own(tmp_path):
    thoughtful(tmp_path / "student")
    paths = [f"student.path={tmp_path / 'student'}", f"base={tmp_path / 'student'}", "rounds=0",
             "warmup=none"]  # fmt: skip
    plain = run_of(tmp_path, *paths)
    run = run_of(tmp_path, *paths, "student.chat_template_kwargs={enable_thinking: false}")
    assert run.start.identity == {**plain.start.identity, "chat_template_kwargs": QUIET}
    assert run.base is not None and plain.base is not None
    assert run.base.identity == {**plain.base.identity, "chat_template_kwargs": QUIET}
    assert run.teacher == plain.teacher and "chat_template_kwargs" not in plain.start.identity
    with pytest.raises(UserError, match=r"\(teacher.chat_template_kwargs\) reads no"):
        run_of(tmp_path, *paths, "teacher.chat_template_kwargs={enable_thinking: false}")


def test_a_judge_has_its_own(tmp_path):
    plain, quiet = (
        scorer("judge", endpoint="http://127.0.0.1:1", model="m", chat_template_kwargs=given)
        for given in (None, QUIET)
    )
    assert quiet.identity == {**plain.identity, "chat_template_kwargs": QUIET}
    with FakeEndpoint(lambda question: RATINGS[0]) as server:
        for judge in (plain, quiet):
            options = {"endpoint": server.url, "expected_score": False, "model": "judge-1"}
            kwargs = judge.chat_template_kwargs
            scorer("judge", **options, chat_template_kwargs=kwargs).check(None)
    assert [body.get("chat_template_kwargs") for body in server.bodies] == [None, QUIET]


def test_a_reward_model_has_its_own(tmp_path):
    _, tokenizer = reward_model(tmp_path)
    tokenizer.chat_template = THOUGHTFUL
    tokenizer.save_pretrained(tmp_path)
    options = {"model": str(tmp_path), "precision": "float32"}
    plain = scorer("reward_model", **options)
    quiet = scorer("reward_model", **options, chat_template_kwargs=QUIET)
    assert quiet.identity == {**plain.identity, "chat_template_kwargs": QUIET}
    read = quiet._named.tokenizer()
    assert read.decode(encode_prompt(read, ASK)).endswith("<no>")


@pytest.mark.parametrize("of", ["reward_model", "teacher"])
def test_a_scorer_that_takes_no_system_turn_is_told_before_anything_is_sampled(
    of, monkeypatch, capsys, tmp_path, tiny_dir, teacher
):
    folder = tmp_path / "scorer"
    if of == "teacher":
        model_in(teacher).load().save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
    else:
        reward_model(folder)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    tokenizer.save_pretrained(folder)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rows = [{"messages": [turns[0], {**turns[1], "content": f"Hi {i}"}]} for i in range(20)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = (
        [f"teacher.path={folder}"] if of == "teacher" else
        [f"teacher.path={teacher}", "score=reward_model", f"score.model={folder}"]
    )  # fmt: skip
    tiny = [given for given in TINY if of == "teacher" or given != "score=likelihood"]
    capsys.readouterr()  # what saving the model showed
    said = refusal(
        monkeypatch, capsys, tmp_path, "recipe=rrhf", *tiny, *named, f"student.path={tiny_dir}",
        "eval=[quick]", "prompts.path=prompts.jsonl",
    )  # fmt: skip
    assert "takes no system message: put its text into the first user message" in said
    made = {file.parent.name.rpartition("-")[0] for file in (tmp_path / "home").rglob("manifest.*")}
    assert made == {"prompts"}
