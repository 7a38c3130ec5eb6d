"""A plug-in's frozen dataclass is its schema, its ranges and its part of the identity."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass, replace

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf
from test_configs import composed

from rankdistill.app.hydra_setup import SCHEMAS
from rankdistill.errors import UserError
from rankdistill.fields import identity_of, irrelevant_fields
from rankdistill.optimiser import Optimiser
from rankdistill.score.judge import LLMJudge
from rankdistill.score.likelihood import Likelihood
from rankdistill.score.reward_model import RewardModel
from rankdistill.score.verifier import Verifier
from rankdistill.stages import settings
from rankdistill.store import canonical_json
from rankdistill.suites import GSM8K, IFEval
from rankdistill.train.schema import PPOTrainOptions
from rankdistill.warmup.cross_tokenizer import CrossTokenizerWarmup
from rankdistill.warmup.hidden import HiddenWarmup
from rankdistill.warmup.logits import LogitsWarmup
from rankdistill.warmup.on_policy import OnPolicyWarmup
from rankdistill.warmup.sft import SFTWarmup

HEAVY = ("torch", "transformers", "trl", "datasets", "lm_eval")


def test_the_schemas_are_registered_without_anything_heavy():
    code = (
        "import sys; from rankdistill.app.hydra_setup import register_schemas; register_schemas();"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


PLUG_INS = [path for path in SCHEMAS if path.split("/")[0] in ("warmup", "score", "eval")]


@pytest.mark.parametrize("path", PLUG_INS)
def test_the_class_that_is_built_adds_no_key_to_its_schema(path):
    group, name = path.split("/")
    given = f"eval=[{name}]" if group == "eval" else f"{group}={name}"
    config = composed("recipe=likelihood", given)
    node = OmegaConf.select(config, f"eval.{name}" if group == "eval" else group)
    if "_target_" not in node:
        return
    kind, schema = get_class(node._target_), SCHEMAS[path]
    assert issubclass(kind, schema)
    added = {own.name for own in fields(kind)} - {own.name for own in fields(schema)}
    assert added <= {"seed"}  # a judge has it for Python alone


def test_the_optimisers_keys_are_those_of_its_yaml():
    shared = {own.name for own in fields(Optimiser)}
    built = settings.build(composed("recipe=likelihood"))
    for options in (built.warmup, built.train, built.reward):
        assert isinstance(options, Optimiser) and shared <= {own.name for own in fields(options)}
    assert built.train.lr_scheduler_type == "linear" and built.reward.warmup_ratio == 0.03
    with pytest.raises(UserError, match=r"reward.max_grad_norm is 0.0; it must be above 0"):
        settings.build(composed("recipe=likelihood", "reward.max_grad_norm=0"))


JUDGE = {
    "mode": "listwise", "aspects": ["overall"], "prompt": None, "endpoint": None, "model": None,
    "key_variable": "KEY", "explain": False, "expected_score": True, "shuffles": 4,
    "temperature": 0.0, "max_answer_tokens": 256, "concurrency": 32, "requests_per_minute": None,
    "timeout_s": 120.0, "retries": 6, "dollars_per_million_input_tokens": 0.0,
    "dollars_per_million_output_tokens": 0.0, "dtype": "auto", "gpu_memory_utilization": 0.85,
    "tensor_parallel_size": 1,
}  # fmt: skip
TASK = {
    "version": 1, "path": None, "shots": 5, "limit": None, "chat_template": False,
    "max_response_tokens": None, "backend": "hf", "batch_size": 8,
}  # fmt: skip
OTHER = {
    "divergence": "jsd", "teacher_outputs": "hidden", "top_k_from": "vllm", "layers": "all",
    "gradient_checkpointing": "selective", "lr_scheduler_type": "constant", "mode": "pairwise",
    "aspects": ["honesty"], "through": "vllm", "contrast": "unconditional", "rule": "math",
    "endpoint": "http://127.0.0.1:8000/v1", "backend": "vllm", "checker": "own",
    "stored_temperatures": (2.0,), "alpha": 0.25, "student_share": 0.25, "advantage": "group",
    "sampling_strategy": "group_by_cluster", "cut": "bootstrap", "critic": "separate",
    "reward": "score", "loss": "plackett_luce", "chat_template_kwargs": {"enable_thinking": False},
}  # fmt: skip
"""A valid value that is not the plug-in's, where adding 1 would not be one."""
ELSEWHERE = {
    # `expected_score` is read in ratings only, a path by what it holds, see below.
    LLMJudge: {"endpoint", "model", "prompt", "expected_score"},
    RewardModel: {"model"},
    # Of train=distillation alone, see below; teachers by their weights, or what their server says.
    PPOTrainOptions: {"teachers", "teacher_column", "divergence", "top_k"},
}
"""Fields that count by what they come to: a model by its weights, a prompt by its text."""


def plug_ins(teacher):
    built = settings.build(composed("recipe=likelihood", "train=ppo"))
    return [
        LogitsWarmup(teacher_outputs="top_k"), OnPolicyWarmup(teacher_outputs="top_k"),
        HiddenWarmup(), CrossTokenizerWarmup(), SFTWarmup(),
        Likelihood(per_token=True, max_batch_tokens=64), LLMJudge(**JUDGE),
        Verifier(rule="number", column="answer", pattern=None),
        RewardModel(
            model=str(teacher), precision="auto", attn_implementation="sdpa",
            trust_remote_code=False, max_tokens=64, max_batch_tokens=64,
        ),
        GSM8K(**TASK), IFEval(**TASK), built.train, built.reward,
    ]  # fmt: skip


def key(plug_in) -> str:
    identity = getattr(plug_in, "identity", None)
    return canonical_json(identity_of(plug_in) if identity is None else identity)


def changed(plug_in, name):
    value = getattr(plug_in, name)
    if name in OTHER and OTHER[name] != value:
        return replace(plug_in, **{name: OTHER[name]})
    if isinstance(value, bool):
        return replace(plug_in, **{name: not value})
    if isinstance(value, float) and value <= 1:
        return replace(plug_in, **{name: value / 2 + 0.01})
    if isinstance(value, list):
        return replace(plug_in, **{name: [*value, 1e-4]})
    if isinstance(value, int | float):
        return replace(plug_in, **{name: value + 1})
    return replace(plug_in, **{name: 7 if value is None else f"{value}x"})


def test_what_is_learned_from_a_teachers_tokens_changes_the_key():
    train = settings.build(composed("recipe=on_policy")).train
    ways = [train, replace(train, divergence="forward_kl")]
    ways += [replace(ways[1], divergence="reverse_kl"), replace(ways[1], top_k=8)]
    assert len({key(way) for way in ways}) == 4


def test_a_field_changes_the_key_unless_its_class_says_otherwise(teacher):
    for plug_in in plug_ins(teacher):
        irrelevant = irrelevant_fields(plug_in)
        elsewhere = {*ELSEWHERE.get(type(plug_in), ()), *getattr(plug_in, "counted_elsewhere", ())}
        for own in fields(plug_in):
            value = getattr(plug_in, own.name)
            if own.name in (*elsewhere, "layout") or is_dataclass(value):
                continue
            same = key(changed(plug_in, own.name)) == key(plug_in)
            assert same is (own.name in irrelevant), f"{type(plug_in).__name__}.{own.name}"
