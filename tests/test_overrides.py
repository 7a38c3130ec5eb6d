"""Arguments that Hydra's grammar does not take are refused with the quotes that they need."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from rankdistill.app.config_errors import explain


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("prompts.path=a=b.jsonl", "prompts.path='a=b.jsonl'"),
        ("prompts.path=x[1", "prompts.path='x[1'"),
        ("rank.path={y}", "rank.path='{y}'"),
        ("prompts.path=größe.jsonl", "prompts.path='größe.jsonl'"),
        ("prompts.path=a(b.jsonl", "prompts.path='a(b.jsonl'"),
        ("prompts.path=it's.jsonl", r"prompts.path='it\'s.jsonl'"),
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


def test_an_argument_without_a_value():
    with pytest.raises(OverrideParseException) as refused:
        OverridesParser.create().parse_overrides(["rrhf"])
    assert explain(refused.value, ["rrhf"]) == (
        "the argument 'rrhf' is no KEY=VALUE: did you mean recipe=rrhf?"
    )
