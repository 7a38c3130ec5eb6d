"""Other programs' names for what has a key here, TRL's first of all."""

from __future__ import annotations

SYNONYMS = {
    # models
    "model": "student.path",
    "model_name": "student.path",
    "model_name_or_path": "student.path",
    "student_model": "student.path",
    "teacher_model": "teacher.path",
    "teacher_model_name_or_path": "teacher.path",
    "tokenizer": "student.path",
    "attn_implementation": "student.attn_implementation",
    "trust_remote_code": "student.trust_remote_code",
    "use_liger_kernel": "student.use_liger_kernel",
    "dtype": "student.precision",
    "torch_dtype": "student.precision",
    "bf16": "student.precision",
    "fp16": "student.precision",
    "load_in_4bit": "student.quantization",
    "load_in_8bit": "student.quantization",
    "use_peft": "student.lora.r",
    "lora": "student.lora.r",
    "lora_r": "student.lora.r",
    "lora_alpha": "student.lora.alpha",
    "lora_dropout": "student.lora.dropout",
    "lora_target_modules": "student.lora.target_modules",
    # data
    "data": "prompts.path",
    "dataset": "prompts.path",
    "dataset_name": "prompts.path",
    "train_file": "prompts.path",
    "ranked_set": "rank.path",
    "preferences": "rank.path",
    "max_prompt_length": "prompts.max_prompt_tokens",
    # sampling
    "temperature": "sample.temperature",
    "top_p": "sample.top_p",
    "top_k": "sample.top_k",
    "num_generations": "sample.responses_per_prompt",
    "num_return_sequences": "sample.responses_per_prompt",
    "max_length": "sample.max_response_tokens",
    "max_tokens": "sample.max_response_tokens",
    "max_new_tokens": "sample.max_response_tokens",
    "max_completion_length": "sample.max_response_tokens",
    "vllm_gpu_memory_utilization": "sample.vllm.gpu_memory_utilization",
    # training
    "loss_type": "objective",
    "loss": "objective",
    "method": "objective",
    "beta": "objective.beta",
    "lr": "train.learning_rate",
    "learning_rate": "train.learning_rate",
    "lr_scheduler": "train.lr_scheduler_type",
    "lr_scheduler_type": "train.lr_scheduler_type",
    "warmup_ratio": "train.warmup_ratio",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "epoch": "train.epochs",
    "epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "batch_size": "train.prompts_per_step",
    "train_batch_size": "train.prompts_per_step",
    "per_device_train_batch_size": "train.prompts_per_step",
    "gradient_accumulation_steps": "train.max_batch_tokens",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "logging_steps": "train.logging_steps",
    "save_steps": "train.save_steps",
    # the run
    "output": "name",
    "output_dir": "name",
    "run_name": "name",
    "judge": "score",
    "tracker": "report_to",
}
"""Our key by the name that somebody may try; not every objective has a `beta`."""


def ours(name: str) -> str | None:
    """The key that is called `name` elsewhere, as a question; None where nothing is known.

    Args:
        name: A key as it was typed; of a dotted one the last part counts.
    """
    if name.partition(".")[0] in ("hardware", "plan"):
        return "it is the planner's: python -m rankdistill.plan with the same arguments"
    last = name.rpartition(".")[2]
    key = SYNONYMS.get(name) or SYNONYMS.get(last.lower())
    if key is None or key == name:
        return None
    if key == "name":
        return "did you mean name=NAME, which makes the folder runs/NAME, or hydra.run.dir=FOLDER?"
    return f"did you mean '{key}'?"
