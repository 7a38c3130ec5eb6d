"""Train a policy on ranked groups, with any objective of `rankdistill.objectives`.

from rankdistill import RankingConfig, RankingTrainer

RankingTrainer(model, RankingConfig("out"), rows, processing_class=tokenizer).train()
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from rankdistill.errors import UserError
from rankdistill.forward import (
    TokenGroup,
    bind,
    bound_layout,
    collate,
    micro_batches,
    response_logps,
)
from rankdistill.models import load_model, load_tokenizer
from rankdistill.objectives import RRHF, Objective, ObjectiveOutput
from rankdistill.train.batches import Averages, RankedBatch, step_loader
from rankdistill.train.checkpoints import last_checkpoint
from rankdistill.train.config import RankingConfig
from rankdistill.train.dropout import disable_dropout
from rankdistill.train.finite import not_finite, stop
from rankdistill.train.groups import RankedGroup, candidates, load_groups
from rankdistill.train.reference import COLUMN, length_limit, with_reference

__all__ = ["RankingConfig", "RankingTrainer"]


class RankingTrainer(Trainer):
    """transformers' Trainer on ranked groups; checkpoints, resume and trackers are the Trainer's.

    The loss of a step is the mean of the objective's losses over the step's prompts, whatever the
    processes, the accumulation steps and `max_batch_tokens`. The objective's metrics are logged
    beside it, averaged in the same way, and by `evaluate()` as `eval_<name>`.

    Args:
        model: The policy: a model, a peft model, or a path for `rankdistill.models.load_model`. Its
            forward is bound (see `rankdistill.forward.bind`) and its dropout set to 0, in place.
        args: See `RankingConfig`.
        train_dataset: A list or `Dataset` of `Group` rows (records.py) or of TRL's preference rows.
        objective: RRHF by default.
        processing_class: The policy's tokenizer; needed unless `model` is a path.
        eval_dataset: As `train_dataset`, or several by name.
        reference_model: For an objective that needs a reference, where that is not the policy as it
            is now (of a peft model, without its adapter). Rows with `reference_logps` need none.
        callbacks: More of the Trainer's callbacks.
        optimizers: Optimizer and scheduler, where the configuration's do not suit.

    Raises:
        UserError: a row that cannot be trained on, named by its `prompt_id`; no tokenizer.
    """

    args: RankingConfig

    def __init__(
        self,
        model: Any,
        args: RankingConfig | None = None,
        train_dataset: Any = None,
        objective: Objective | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        eval_dataset: Any = None,
        *,
        reference_model: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        args = args or RankingConfig()
        if isinstance(model, str):
            processing_class = processing_class or load_tokenizer(model)
            model = load_model(model)
        if processing_class is None:
            raise UserError("RankingTrainer needs the model's tokenizer as processing_class.")
        self.objective = objective or RRHF()
        self._tokenizer, self._limit = processing_class, length_limit(model, args)
        self._logged, self._evaluated = Averages(), Averages()
        disable_dropout(model)
        bind(model, args.layout)
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._load(train_dataset, "train_dataset"),
            eval_dataset=self._load(eval_dataset, "eval_dataset"),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self._layout = bound_layout(model)
        reference = self._reference(model if reference_model is None else reference_model)
        self.train_dataset: Any = self._referred(self.train_dataset, "train_dataset", reference)
        self.eval_dataset: Any = self._referred(self.eval_dataset, "eval_dataset", reference)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trainer's; `resume_from_checkpoint=True` takes the last complete one, or starts anew."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(str(self.args.output_dir))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """This process's share of every step, see `StepBatches`."""
        if self.train_dataset is None:
            raise UserError("RankingTrainer.train() needs a train_dataset.")
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        return step_loader(
            self.train_dataset,
            args.prompts_per_step or self.get_total_train_batch_size(args),
            args,
            accumulation=args.gradient_accumulation_steps,
            seed=seed if args.train_sampling_strategy == "random" else None,
            drop_last=args.dataloader_drop_last,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """This process's share of the groups; rows are taken too, as when the trainer was made."""
        groups = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(groups, str):
            groups = self.eval_dataset[groups]
        if groups is None:
            raise UserError("RankingTrainer.evaluate() needs an eval_dataset.")
        if not (isinstance(groups, list) and groups and isinstance(groups[0], RankedGroup)):
            groups = self._referred(self._load(groups, "eval_dataset"), "eval_dataset", None)
        per_step = self.args.per_device_eval_batch_size * self.args.world_size
        return step_loader(groups, per_step, self.args)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As for `evaluate()`."""
        return self.get_eval_dataloader(test_dataset)

    def training_step(
        self, model: nn.Module, inputs: RankedBatch, num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward, part by part; returns the process's share of the step's loss.

        The shares' mean over processes is the mean loss a prompt.
        """
        model.train()
        if callable(to_train := getattr(self.optimizer, "train", None)):
            to_train()  # schedule-free optimizers have two modes
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        # The gradients are averaged over processes, the losses are to be averaged over prompts.
        scale = self.accelerator.num_processes / num_items_in_batch
        parts: list[tuple[list[RankedGroup], Tensor]] = []
        syncs = self.accelerator.sync_gradients
        for number, part in enumerate(inputs.parts, start=1):
            last = number == len(inputs.parts)
            self.accelerator.gradient_state._set_sync_gradients(syncs and last)
            with nullcontext() if last else self.accelerator.no_sync(model):
                groups = [inputs.groups[index] for index in part]
                losses = self._losses(model, groups, self._logged)
                self.accelerator.backward(losses.sum() * scale)
            parts.append((groups, losses.detach()))
        self._stop_unless_finite(parts)
        return torch.cat([losses for _, losses in parts]).sum().float() * scale

    def prediction_step(
        self, model: nn.Module, inputs: RankedBatch, *args: Any, **kwargs: Any
    ) -> tuple[None, None, None]:
        """Adds the batch's losses and metrics to the averages that `evaluation_loop` reports."""
        self._get_num_items_in_batch([inputs], self.args.device)
        with torch.no_grad():
            for part in inputs.parts:
                groups = [inputs.groups[index] for index in part]
                self._losses(model, groups, self._evaluated)
        return None, None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Trainer's, with the means of loss and metrics over the prompts of all processes."""
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        means = self._evaluated.collect()
        output.metrics.update({f"{metric_key_prefix}_{k}": v for k, v in means.items()})  # type: ignore[union-attr]
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, with the objective's metrics beside the loss."""
        if "loss" in logs:
            means = self._logged.collect()
            logs |= {name: value for name, value in means.items() if name != "loss"}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: RankedBatch) -> int:  # type: ignore[override]
        """Trainer's estimate, 6 a parameter and token that the model computes."""
        parameters = self.accelerator.unwrap_model(self.model).num_parameters(
            exclude_embeddings=True
        )
        return 6 * parameters * inputs.tokens(self._layout)

    def _track_num_input_tokens(self, inputs: RankedBatch) -> None:
        if self.args.include_num_input_tokens_seen != "no":
            tokens = torch.tensor(inputs.tokens(self._layout), device=self.args.device)
            total = self.accelerator.reduce(tokens, reduction="sum")
            self.state.num_input_tokens_seen += int(total)  # type: ignore[arg-type]

    def _losses(self, model: nn.Module, groups: list[RankedGroup], into: Averages) -> Tensor:
        """[B] the losses of groups; of none a zero [1], computed for the other processes' sake."""
        if not groups:
            nothing = collate([TokenGroup([0], [[0]])], self._layout).to(self.args.device)
            return response_logps(model, nothing).logps[0] * 0.0
        batch = collate([group.tokens for group in groups], self._layout).to(self.args.device)
        logps = response_logps(model, batch, temperature=self.args.temperature)
        output: ObjectiveOutput = self.objective(candidates(groups, logps))
        if output.loss.shape != (len(groups),):
            raise UserError(
                f"{type(self.objective).__name__} returned a loss of shape "
                f"{tuple(output.loss.shape)} for {len(groups)} prompts: return one a prompt."
            )
        into.add({"loss": output.loss, **output.metrics})
        return output.loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """The prompts of a step, over all processes; and every batch's split into forward passes.

        Every process must run the model equally often, or one would wait for the others for ever.
        """
        for batch in batch_samples:
            tokens = [group.tokens for group in batch.groups]
            batch.parts = micro_batches(tokens, self.args.max_batch_tokens, self._layout)
        self._step_prompts = [group.prompt_id for batch in batch_samples for group in batch.groups]
        mine = [len(self._step_prompts), *(len(batch.parts) for batch in batch_samples)]
        everyone = self.accelerator.gather(torch.tensor([mine], device=device))
        for batch, passes in zip(batch_samples, everyone[:, 1:].amax(dim=0).tolist(), strict=True):  # type: ignore[index]
            # Even without prompts at all one is needed: gradients are exchanged in the step's last.
            batch.parts += [[] for _ in range(max(passes, 1) - len(batch.parts))]
        return everyone[:, 0].sum()  # type: ignore[index]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        # With fp16 the loss scaler skips such a step by itself.
        scaled = self.accelerator.scaler is not None
        if norm is not None and not scaled and not math.isfinite(float(norm)):
            stop("gradient", self._step_prompts, self)
        return norm

    def _stop_unless_finite(self, parts: list[tuple[list[RankedGroup], Tensor]]) -> None:
        bad = not_finite(parts)
        count = torch.tensor(len(bad), device=self.args.device)
        if int(self.accelerator.reduce(count, reduction="sum")) > 0:  # type: ignore[arg-type]
            stop("loss", bad, self)

    def _load(self, rows: Any, name: str) -> Any:
        """Rows, or several sets of them, in tokens."""
        if rows is None:
            return None
        if isinstance(rows, dict):
            return {key: self._load(rows[key], f"{name} '{key}'") for key in rows}
        if not hasattr(rows, "__len__") or len(rows) == 0:
            raise UserError(f"The {name} is empty or streamed: give a list or Dataset with rows.")
        return load_groups(rows, self._tokenizer, self._limit)

    def _referred(self, groups: Any, name: str, reference: Any) -> Any:
        """Groups, or several sets of them, with reference log-probabilities where needed."""
        if groups is None or not self.objective.needs_reference:
            return groups
        if isinstance(groups, dict):
            return {k: self._referred(of, f"{name} '{k}'", reference) for k, of in groups.items()}
        if all(group.reference_logps is not None for group in groups):
            return groups
        if reference is None:
            raise UserError(
                f"{type(self.objective).__name__} needs a reference, and the {name} has no column "
                f"'{COLUMN}' while the policy may have moved: give these rows to the trainer when "
                "it is made, or add the column with add_reference_logps."
            )
        return with_reference(groups, reference, self.args)

    def _reference(self, model: Any) -> Any:
        """The reference, bound and on this process's device; None where none is needed."""
        if not self.objective.needs_reference:
            return None
        reference: Any = load_model(model) if isinstance(model, str) else model
        bind(reference, self.args.layout)
        if not getattr(reference, "is_quantized", False):
            reference.to(self.args.device)
        return reference
