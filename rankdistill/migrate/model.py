"""The model's keys: what is trained, in which precision, with which adapters."""

from __future__ import annotations

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
