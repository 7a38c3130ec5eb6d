"""Every key of every group: what no key takes is one sentence, at start-up, whatever the key is."""

from __future__ import annotations

import random
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from tiny_run import composed

from rankdistill.app import catalogue
from rankdistill.app.config_errors import explain
from rankdistill.errors import UserError
from rankdistill.stages import settings
from rankdistill.stages.values import leaves

GROUPS = ("warmup", "score", "rank", "prompts", "sample", "student", "cluster")
CASES = [
    ["recipe=ppo"], ["recipe=reranker"], ["recipe=likelihood", "student.lora.r=8"],
    ["recipe=rrhf", f"eval=[{','.join(catalogue.suite_files())}]"],
    *(["recipe=likelihood", f"{group}={name}"]
      for group in GROUPS for name in catalogue.groups()[group] if name != "demands"),
]  # fmt: skip
CONF = Path(__file__).parents[1] / "conf"
NO_NUMBER: list[Any] = [float("nan"), float("inf"), -float("inf"), 10**30, 1e300, "hello", [[1]]]
NO_NUMBER += [{"a": 1}]
ANYTHING: list[Any] = [*NO_NUMBER, None, -7, -0.5, "", " ", True]
# What may be below 0.
SIGNED = {"minimum_score", "score_threshold", "min_agreement"}
SAMPLED = 100


def refused(config: Any, key: str, value: Any) -> str | None:
    """The sentence; None where it is taken. Any other exception is a fault."""
    config = deepcopy(config)
    try:
        try:
            OmegaConf.update(config, key, value)
        except AttributeError as error:  # keys for a group that is null
            return explain(error, [])
        settings.build(config)
    except UserError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException) as error:
        return explain(error, [])
    return None


@pytest.fixture(scope="module", autouse=True)
def without_trial():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "try_objective", lambda objective: None)
        yield


@cache
def configs() -> list[Any]:
    """Of every option; an objective has no schema, so its file is all that there is to compose."""
    found = [composed(*case) for case in CASES]
    for path in sorted((CONF / "objective").glob("*.yaml")):
        found.append(deepcopy(found[-1]))
        found[-1].objective = OmegaConf.load(path)
    return found


@cache
def keys() -> list[tuple[Any, str, Any]]:
    found = {}
    for config in configs():
        for key, value in leaves(config):
            group = config[key.partition(".")[0]]
            kind = OmegaConf.select(config, f"{key.partition('.')[0]}._target_")
            where = (key.partition("[")[0], kind, type(group))
            if not key.endswith("_") and where not in found:
                found[where] = (config, where[0], value)
    return list(found.values())


def test_what_no_number_is_is_refused_at_every_number():
    rng = random.Random(5)
    numbers = [k for k in keys() if isinstance(k[2], int | float) and not isinstance(k[2], bool)]
    assert len(numbers) > 150
    drawn = [(key, rng.choice(NO_NUMBER)) for key in numbers]
    for (config, key, _), value in drawn:
        said = refused(config, key, value)
        assert said is not None and "\n" not in said, (key, value)
        assert key.rpartition(".")[2] in said or key.partition(".")[0] in said, (key, said)
    taken = []
    below = [k for k in numbers if k[1].rpartition(".")[2] not in SIGNED]
    for config, key, _ in rng.sample(below, 40):
        if isinstance(OmegaConf.select(config, key), int | float):
            said = refused(config, key, -7)
            taken += [] if said else [key]
    assert taken == []


def test_whatever_is_given_to_a_key_is_taken_or_told_in_a_sentence():
    rng = random.Random(6)
    pairs = [(key, value) for key in keys() for value in ANYTHING]
    for (config, key, _), value in rng.sample(pairs, SAMPLED):
        said = refused(config, key, value)
        assert said is None or (said and "\n" not in said), (key, value, said)


def test_a_misspelt_key_is_told_in_every_group():
    for config, key, _ in random.Random(7).sample(keys(), 40):
        config = deepcopy(config)
        misspelt = key + "q"
        with open_dict(config):
            OmegaConf.update(config, misspelt, 1, force_add=True)
        try:
            settings.build(config)
        except UserError as error:
            assert key.rpartition(".")[2] in str(error), (key, str(error))
        else:
            raise AssertionError(f"{misspelt} is taken")
