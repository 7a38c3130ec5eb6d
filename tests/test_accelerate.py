"""accelerate's configurations as accelerate reads them, and what ZeRO-3 asks of us."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from forward_oracle import ragged_groups
from hydra.errors import HydraException
from tiny_models import build_model
from tiny_run import composed
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer
from transformers.integrations import deepspeed

from rankdistill import RankingTrainer
from rankdistill.accelerate import configurations, of_machines, path_of
from rankdistill.app import catalogue
from rankdistill.errors import UserError
from rankdistill.forward import LMHead, bind
from rankdistill.models import load_model
from rankdistill.stages.ppo import check_ppo
from rankdistill.train.groups import RankedGroup
from rankdistill.train.reference import ReferenceConfig, reference_logps
from rankdistill.train.reward.trainer import RewardTrainer
from rankdistill.train.schema import PPOTrainOptions, TrainOptions
from rankdistill.trainer.modes import weights_in
from rankdistill.warmup.sft import SFTTrainer
from rankdistill.warmup.trainer import DistillationTrainer

NAMES = [f"{kind}_{gpus}gpu" for kind in ("zero2", "zero3", "fsdp2") for gpus in (1, 8)]


def test_there_is_one_for_one_gpu_and_for_eight():
    assert sorted(NAMES) == list(configurations())


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_it(name):
    read = load_config_from_file(path_of(name))
    gpus = int(name.split("_")[1].removesuffix("gpu"))
    assert read.num_processes == gpus and read.num_machines == 1 and not read.use_cpu
    assert read.mixed_precision == "no"  # student.precision says it
    offloaded = gpus == 1
    if name.startswith("fsdp2"):
        options = read.fsdp_config
        assert read.distributed_type.value == "FSDP" and not read.deepspeed_config
        assert options["fsdp_version"] == 2 and options["fsdp_offload_params"] == offloaded
        assert options["fsdp_cpu_ram_efficient_loading"] is False
        arguments = vars(launch_command_parser().parse_args(["x"]))
        assert set(options) <= set(arguments)
    else:
        options, stage = read.deepspeed_config, int(name[4])
        assert read.distributed_type.value == "DEEPSPEED" and not read.fsdp_config
        device = "cpu" if offloaded else "none"
        assert options["zero_stage"] == stage and options["offload_optimizer_device"] == device
        if stage == 3:
            assert options["offload_param_device"] == device
            assert options["zero3_save_16bit_model"] and options["zero3_init_flag"] is False
        assert set(options) <= set(vars(launch_command_parser().parse_args(["x"])))


def test_the_command_that_names_the_file(tmp_path):
    def run(*arguments: str):
        command = [sys.executable, "-m", "rankdistill.accelerate", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    path = Path(run("fsdp2_8gpu").stdout.strip())
    assert path.is_file() and path.name == "fsdp2_8gpu.yaml"
    assert all(name in run().stdout for name in NAMES)
    wrong = run("fsdp_8gpu")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert "did you mean 'fsdp2_8gpu'" in wrong.stderr and "Traceback" not in wrong.stderr
    with pytest.raises(UserError, match="There is no configuration 'ddp'"):
        path_of("ddp")


def test_a_configuration_of_several_machines():
    parser = launch_command_parser()
    given = of_machines("fsdp2_8gpu", 2).split()
    options = parser.parse_args(["--config_file", *given, "-m", "rankdistill"])
    assert (options.num_machines, options.num_processes) == (2, 16)
    assert Path(options.config_file).is_file()
    with pytest.raises(UserError, match="--machines is 0"):
        of_machines("fsdp2_8gpu", 0)


def test_it_is_no_group_of_the_command():
    assert "accelerate" not in catalogue.groups()
    for override in ("accelerate=fsdp2_8gpu", "+accelerate=fsdp2_8gpu"):
        with pytest.raises(HydraException):
            composed(override)


def test_under_zero_3_models_are_loaded_whole(tiny_dir, monkeypatch):
    """As transformers knows of it; a cut teacher would never be put together again."""
    config = types.SimpleNamespace(is_zero3=lambda: True)
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: config)
    monkeypatch.setattr(deepspeed, "is_deepspeed_available", lambda: True, raising=False)
    assert deepspeed.is_deepspeed_zero3_enabled()
    model = load_model(str(tiny_dir))
    assert all(parameter.numel() for parameter in model.parameters())
    assert deepspeed.is_deepspeed_zero3_enabled()


def test_a_head_whose_weight_zero_3_holds_is_called():
    model = build_model()
    assert LMHead(model, True).linear
    model.lm_head.weight.ds_id = 3  # DeepSpeed's mark of a parameter that it has cut
    assert not LMHead(model, True).linear


@pytest.mark.parametrize(
    "trainer", [RankingTrainer, RewardTrainer, DistillationTrainer, SFTTrainer]
)
def test_every_trainer_keeps_what_shards_return_in_float32(trainer, monkeypatch):
    """In bfloat16 accelerate's policy rounds outputs and sums of gradients to it."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, torch.bfloat16)
    plugin = types.SimpleNamespace(mixed_precision_policy=policy)
    accelerator = types.SimpleNamespace(state=types.SimpleNamespace(fsdp_plugin=plugin))

    def create(self):
        self.accelerator = accelerator

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", create)
    object.__new__(trainer).create_accelerator_and_postprocess()
    kept = plugin.mixed_precision_policy
    assert (kept.param_dtype, kept.reduce_dtype) == (torch.bfloat16, torch.float32)
    assert kept.output_dtype is None


def test_a_reference_is_computed_as_a_sharded_policy_is(monkeypatch):
    """In bfloat16 throughout, its norms too, which autocast leaves in float32."""
    model = bind(build_model())
    group = RankedGroup("0", ragged_groups()[0], (), ())
    under_autocast = reference_logps([group], model, ReferenceConfig(bf16=True))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    found = reference_logps([group], model, ReferenceConfig(bf16=True))
    assert next(model.parameters()).dtype == torch.float32
    with weights_in(model, torch.bfloat16):
        assert found == reference_logps([group], model, ReferenceConfig())
    assert found != under_autocast


@pytest.mark.parametrize("kind", ["FSDP", "DeepSpeed"])
@pytest.mark.parametrize("what", ["PPO", "A reward model"])
def test_what_needs_whole_models_refuses_shards(kind, what, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind.upper()}", "true")
    train = object.__new__(PPOTrainOptions if what == "PPO" else TrainOptions)
    reward = types.SimpleNamespace(only=True)
    run = types.SimpleNamespace(settings=types.SimpleNamespace(train=train, reward=reward))
    with pytest.raises(UserError, match=rf"^{what} \(.*in every process, .*\({kind}\): start it"):
        check_ppo(run)
