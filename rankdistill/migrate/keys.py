"""The keys of the model and of the data.

What is trained, in which precision, with which adapters; data sets and lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.migrate.carried import Carried

LORA_ONLY = {
    "lora_modules_to_save": "adapters train no other module",
    "lora_target_parameters": "adapters sit on linear layers",
    "use_rslora": "adapters are scaled by alpha / r",
    "use_dora": "adapters are LoRA's",
    "lora_task_type": "always a causal language model",
    "bnb_4bit_quant_storage": "the storage type is bitsandbytes' own",
}


def carry_model(carried: Carried, *, adapters_dropped: bool) -> None:
    """Model, precision, attention, adapters, quantisation.

    Args:
        adapters_dropped: Whether this training runs without dropout in its adapters.

    Raises:
        UserError: no model is named.
    """
    take, values = carried.take, carried.values
    path = take("model_name_or_path")
    if path is None:
        raise UserError("the configuration names no model_name_or_path: add it, it is the student.")
    revision = str(take("model_revision", "main"))
    path = path if revision == "main" else f"{path}@{revision}"
    precision = _precision(carried)
    # No teacher is asked; its group has to name a model all the same.
    for group in ("student", "teacher"):
        values[f"{group}.path"] = path
        values[f"{group}.precision"] = precision
        if take("trust_remote_code", False):
            values[f"{group}.trust_remote_code"] = True
    attention = take("attn_implementation")
    if take("use_flash_attention_2", False):
        attention = "flash_attention_2"
    if attention in ("sdpa", "eager", "flash_attention_2"):
        values["student.attn_implementation"] = attention
    elif attention is not None:
        carried.left["attn_implementation"] = f"'{attention}' is not there: sdpa takes its place"
    if take("use_liger_kernel", take("use_liger", False)):
        values["student.use_liger_kernel"] = True
    _adapters(carried, adapters_dropped)
    if arguments := take("chat_template_kwargs"):
        values["student.chat_template_kwargs"] = arguments
    if take("chat_template") or take("chat_template_path"):
        key = "chat_template" if "chat_template" in carried.given else "chat_template_path"
        carried.left[key] = (
            "save it as a Jinja file for student.chat_template=FILE (zephyr comes along), unless "
            "the model has it"
        )


def _precision(carried: Carried) -> str:
    take = carried.take
    held = str(take("dtype", take("torch_dtype", "float32")))
    mixed_half = take("fp16", False)
    mixed_bf16 = take("bf16", not mixed_half)
    if mixed_half or held == "float16":
        return "float16"
    if not mixed_bf16 and held != "bfloat16":
        return "float32"
    if held == "bfloat16" and not take("use_peft", False):
        carried.remarks.append(
            "Weights that are trained are held in float32 and computed with in bfloat16; TRL holds "
            "them in dtype=bfloat16."
        )
    return "bfloat16"


def _adapters(carried: Carried, dropped: bool) -> None:
    take, values = carried.take, carried.values
    used = bool(take("use_peft", False))
    rank, alpha = take("lora_r", 16), take("lora_alpha", 32)
    dropout, modules = take("lora_dropout", 0.05), take("lora_target_modules")
    four, eight = take("load_in_4bit", False), take("load_in_8bit", False)
    kind, nested = take("bnb_4bit_quant_type", "nf4"), take("use_bnb_nested_quant", False)
    for key, reason in LORA_ONLY.items():
        carried.leave(key, reason)
    if not used:
        for key in ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"):
            carried.leave(key, "use_peft is not true, so TRL does not read it either")
        if four or eight:
            carried.left["load_in_4bit" if four else "load_in_8bit"] = (
                "quantised weights are trained under adapters only: use_peft is not true"
            )
        return
    values["student.lora.r"], values["student.lora.alpha"] = int(rank), float(alpha)
    values["student.lora.dropout"] = float(dropout)
    if dropped and dropout:
        carried.left["lora_dropout"] = "log-probabilities are compared without dropout"
        values["student.lora.dropout"] = 0.0
    if isinstance(modules, str) and modules != "all-linear":
        modules = [modules]
    if modules is None:
        carried.remarks.append(
            "lora_target_modules is not given: adapters are on every linear layer here, and in "
            "TRL on those that peft chooses for the architecture."
        )
    else:
        values["student.lora.target_modules"] = modules
    if four or eight:
        values["student.quantization"] = "nf4" if four else "int8"
    if four and kind != "nf4":
        carried.left["bnb_4bit_quant_type"] = f"'{kind}' is not there: nf4 takes its place"
    if four and not nested:
        carried.remarks.append("The scales of 4-bit weights are quantised again here.")


ONE = "a run reads one set of conversations: join them to a file"
FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz")
HELD_OUT = "of what is read, prompts.splits hold 2 % out"


def carry_data(carried: Carried, kind: str, at_once: int) -> None:
    """The data set, and how long its rows may be.

    Args:
        at_once: Rows that one device takes at once.

    Raises:
        UserError: no data set is named.
    """
    take, values = carried.take, carried.values
    path = _path(carried)
    length = int(take("max_length", take("max_seq_length", 1024)))
    prompt = take("max_prompt_length")
    if kind == "sft":
        path = _one(carried, path)
        carried.groups |= {"warmup": "sft", "eval": ["quick"]}
        values |= {
            "rounds": 0,
            "warmup.conversations": path,
            "warmup.max_conversation_tokens": length,
            "warmup.max_batch_tokens": at_once * length,
        }
        carried.leave("max_prompt_length", "conversations are cut as a whole")
        return
    if prompt is None:
        carried.remarks.append(
            f"Half of max_length={length} is the prompt's here, and half the response's; TRL cuts "
            "both together."
        )
    prompt = int(prompt) if prompt is not None else length // 2
    carried.groups |= {"warmup": "none", "eval": ["ranked"]}
    values |= {
        "rank.path": path,
        # A split to train on was chosen already: a little of it is held out for the report.
        "prompts.splits.train": 0.98,
        "prompts.splits.validation": 0.01,
        "prompts.splits.heldout": 0.01,
        "prompts.limit.train": None,
        "prompts.max_prompt_tokens": prompt,
        "rank.max_response_tokens": max(1, length - prompt),
        "train.max_batch_tokens": 2 * at_once * length,
    }
    take("max_completion_length")
    carried.leave("max_completion_length", "responses get what the prompt leaves of max_length")


def _path(carried: Carried) -> Any:
    """What is trained on, as `owner/name[/config][:split]` or files, and how much of each."""
    mixture, mixer = carried.take("dataset_mixture"), carried.take("dataset_mixer")
    listed, name = carried.take("datasets"), carried.take("dataset_name")
    config, split = carried.take("dataset_config"), carried.take("dataset_train_split")
    splits, configs = carried.take("dataset_splits"), carried.take("dataset_configs")
    carried.leave("dataset_test_split", HELD_OUT)
    carried.leave("dataset_streaming", "data sets are read whole")
    if isinstance(mixture, Mapping):
        listed = mixture.get("datasets")
        if mixture.get("test_split_size"):
            carried.left["dataset_mixture.test_split_size"] = HELD_OUT
    if isinstance(listed, list) and listed and all(isinstance(part, Mapping) for part in listed):
        return _mixed([_of_part(part) for part in listed])
    if isinstance(mixer, Mapping) and mixer:
        chosen = configs[0] if configs else None
        train = next((s for s in splits or [] if "test" not in str(s)), None)
        if splits and len(splits) > 1:
            carried.left["dataset_splits"] = HELD_OUT
        parts = [(_named(key, chosen, train), share) for key, share in mixer.items()]
        return _mixed(parts)
    if name is None:
        raise UserError(
            "the configuration names no data set: add dataset_name, dataset_mixer or "
            "dataset_mixture."
        )
    return _named(str(name), config, split)


def _of_part(part: Mapping[str, Any]) -> tuple[str, Any]:
    name = part.get("id") or part.get("path") or part.get("data_files")
    share = part.get("weight", part.get("fraction"))
    config = part.get("config") or part.get("name")
    return _named(str(name), config, part.get("split")), share


def _one(carried: Carried, path: Any) -> str:
    """The first of several sets of conversations: `warmup.conversations` takes one."""
    names = [path] if isinstance(path, str) else list(path)
    if len(names) > 1:
        carried.left["dataset_mixer"] = f"{', '.join(names[1:])}: {ONE}"
    elif not isinstance(path, str):
        carried.left["dataset_mixer"] = f"share {path[names[0]]}: warmup.train_conversations is one"
    return names[0]


def _mixed(parts: list[tuple[str, Any]]) -> Any:
    """One set, or several with how much of each: fractions of the handbook are shares of a set."""
    if all(share is None or float(share) == 1.0 for _, share in parts):
        names = [name for name, _ in parts]
        return names[0] if len(names) == 1 else names
    return {name: 1.0 if share is None else _share(share) for name, share in parts}


def _share(value: Any) -> int | float:
    """Up to 1 a share of the set; beyond that a number of rows, as open-instruct has them."""
    number = float(value)
    return number if number <= 1 else round(number)


def _named(name: str, config: Any, split: Any) -> str:
    if Path(name).suffix in FILES:
        return name
    if config not in (None, "default"):
        name = f"{name}/{config}"
    return name if split in (None, "train") else f"{name}:{split}"
