"""Arguments that Hydra's grammar does not take are refused with the quotes that they need."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from tiny_run import composed

from rankdistill.app.config_errors import explain
from rankdistill.errors import UserError
from rankdistill.stages.values import refuse_added


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("prompts.path=a=b.jsonl", "prompts.path='a=b.jsonl'"),
        ("prompts.path=x[1", "prompts.path='x[1'"),
        ("rank.path={y}", "rank.path='{y}'"),
        ("prompts.path=größe.jsonl", "prompts.path='größe.jsonl'"),
        ("prompts.path=a(b.jsonl", "prompts.path='a(b.jsonl'"),
        ("prompts.path=it's.jsonl", r"prompts.path='it\'s.jsonl'"),
        ("rank.path=数据/пары 👍.jsonl", "rank.path='数据/пары 👍.jsonl'"),
    ],
)
def test_what_cannot_be_parsed_is_quoted(argument, remedy):
    parser = OverridesParser.create()
    with pytest.raises(OverrideParseException) as refused:
        parser.parse_overrides([argument])
    told = explain(refused.value, [argument])
    assert f'"{remedy}"' in told and "mismatched" not in told
    key, value = argument.split("=", 1)
    [override] = parser.parse_overrides([remedy])
    assert (override.key_or_group, override.value()) == (key, value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        # These were advised to be one text, which the next sentence then refused.
        ("rank.columns={chosen: größe, rejected: b}", {"chosen": "größe", "rejected": "b"}),
        ("prompts.keep=[größe,b 1]", ["größe", "b 1"]),
        ("prompts.path=[größe.jsonl, b.jsonl]", ["größe.jsonl", "b.jsonl"]),
        ('prompts.path=a"b;c.jsonl', 'a"b;c.jsonl'),
        ("prompts.path=${HOME", "${HOME"),
        ("rank.path='größe.jsonl", "größe.jsonl"),
        ("prompts.path=ü\\'.jsonl", "ü\\'.jsonl"),
    ],
)
def test_the_quotes_for_a_shell_give_what_was_meant(argument, value):
    told = explained(argument)
    [word] = shlex.split(told.partition("as in ")[2])
    [override] = OverridesParser.create().parse_overrides([word])
    assert override.value() == value


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("prompts.path={größe.jsonl: 0.5, b.jsonl: 1.0}", "write it into a recipe of your own"),
        ("rank.columns={chosen: a, rejected}", "no list [a, b] and no mapping {name: value}"),
        ("größe=1", "there is no key 'größe'"),
    ],
)
def test_what_no_quotes_would_mend(argument, said):
    assert said in explained(argument) and "\n" not in explained(argument)


@pytest.mark.parametrize("group", ["train", "sample", "prompts", "eval.quick", "student.lora"])
def test_a_class_where_none_is_named_is_told(group):
    """Hydra's `++` adds even that; some passed unread, others were a traceback."""
    config = composed("recipe=none", f"++{group}._target_=sys.exit")
    node = OmegaConf.select(config, group)
    with pytest.raises(UserError, match=rf"'{group}' has no key '_target_': "):
        refuse_added(node, group)
    for built in ("warmup", "score", "objective", "eval"):
        refuse_added(composed("recipe=none")[built], built)


def explained(argument: str) -> str:
    with pytest.raises(OverrideParseException) as refused:
        OverridesParser.create().parse_overrides([argument])
    return explain(refused.value, [argument])


def test_an_argument_without_a_value():
    with pytest.raises(OverrideParseException) as refused:
        OverridesParser.create().parse_overrides(["rrhf"])
    assert explain(refused.value, ["rrhf"]) == (
        "the argument 'rrhf' is no KEY=VALUE: did you mean recipe=rrhf?"
    )


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("prompts.instructions.kinds=[words]", "prompts.instructions is null, which takes no keys"),
        ("sample.endpoint.urls=http://a/v1", "sample.endpoint.urls takes a list, as in 'sample."),
        (
            "prompts.decontaminate=[ifeval]",
            "takes no list, and has keys of its own: against, ngram",
        ),
    ],
)
def test_a_value_of_another_shape(argument, said):
    with pytest.raises((AssertionError, HydraException)) as refused:
        composed("recipe=likelihood", argument)
    assert said in explain(refused.value, ["recipe=likelihood", argument])
