"""Train a policy on ranked groups, with any objective of `rankdistill.objectives`.

from rankdistill import RankingConfig, RankingTrainer

RankingTrainer(model, RankingConfig("out"), rows, processing_class=tokenizer).train()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from rankdistill.errors import UserError
from rankdistill.forward import ResponseLogps, bind, collate, response_logps
from rankdistill.models import adapted, load_model, load_tokenizer, place
from rankdistill.objectives import RRHF, Candidates, Objective, ObjectiveOutput
from rankdistill.train.groups import RankedGroup, RankedGroups, load_groups
from rankdistill.train.reference import COLUMN, length_limit, with_reference
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.batches import RankedBatch, step_loader
from rankdistill.trainer.modes import disable_dropout
from rankdistill.trainer.steps import NOTHING, Averages, StepTrainer

__all__ = ["RankingConfig", "RankingTrainer"]


class RankingTrainer(StepTrainer):
    """transformers' Trainer on ranked groups; checkpoints, resume and trackers are the Trainer's.

    The loss of a step is the mean of the objective's losses over the step's prompts, whatever the
    processes, the accumulation steps and `max_batch_tokens`. The objective's metrics are logged
    beside it, averaged in the same way, and by `evaluate()` as `eval_<name>`.

    Args:
        model: The policy: a model, a peft model, or a path for `rankdistill.models.load_model`. Its
            forward is bound (see `rankdistill.forward.bind`) and its dropout set to 0, in place.
        args: See `RankingConfig`.
        train_dataset: A list or `Dataset` of `Group` rows (rows.py) or of TRL's preference rows.
        objective: RRHF by default.
        processing_class: The policy's tokenizer; needed unless `model` is a path.
        eval_dataset: As `train_dataset`, or several by name.
        peft_config: Trains new adapters on the model, as in TRL, instead of all its weights; the
            reference is then the model without them.
        reference_model: For an objective that needs a reference, where that is not the policy as it
            is now (of a peft model, without its adapter). Rows with `reference_logps` need none.
        callbacks: More of the Trainer's callbacks.
        optimizers: Optimizer and scheduler, where the configuration's do not suit.

    Raises:
        UserError: a row that cannot be trained on, named by its `prompt_id`; no tokenizer; adapters
            for a model that has some.
    """

    def __init__(
        self,
        model: Any,
        args: RankingConfig | None = None,
        train_dataset: Any = None,
        objective: Objective | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        eval_dataset: Any = None,
        *,
        peft_config: PeftConfig | None = None,
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
        if peft_config is not None:
            model = _adapted(model, peft_config, args.seed)
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
        reference = self._reference(model if reference_model is None else reference_model)
        self.train_dataset: Any = self._referred(self.train_dataset, "train_dataset", reference)
        self.eval_dataset: Any = self._referred(self.eval_dataset, "eval_dataset", reference)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """This process's share of the groups; rows are taken too, as when the trainer was made."""
        groups = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(groups, str):
            groups = self.eval_dataset[groups]
        if groups is None:
            raise UserError("RankingTrainer.evaluate() needs an eval_dataset.")
        if not _are_loaded(groups):
            groups = self._referred(self._load(groups, "eval_dataset"), "eval_dataset", None)
        per_step = self.args.per_device_eval_batch_size * self.args.world_size
        return step_loader(groups, per_step, self.args)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As for `evaluate()`."""
        return self.get_eval_dataloader(test_dataset)

    def losses(self, model: nn.Module, rows: Sequence[RankedGroup]) -> Tensor:
        """[B] the objective's losses."""
        return self._losses(model, rows, self._logged)

    def weight(self, rows: Sequence[RankedGroup]) -> int:
        """Prompts."""
        return len(rows)

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

    def _losses(self, model: nn.Module, groups: Sequence[RankedGroup], into: Averages) -> Tensor:
        """[B] the losses of groups; of none a zero [1], computed for the other processes' sake."""
        if not groups:
            nothing = collate([NOTHING], self.layout).to(self.args.device)
            return response_logps(model, nothing).logps[0] * 0.0
        batch = collate([group.tokens for group in groups], self.layout).to(self.args.device)
        logps = response_logps(model, batch, temperature=self.args.temperature)
        output: ObjectiveOutput = self.objective(candidates(groups, logps))
        if output.loss.shape != (len(groups),):
            raise UserError(
                f"{type(self.objective).__name__} returned a loss of shape "
                f"{tuple(output.loss.shape)} for {len(groups)} prompts: return one per prompt."
            )
        into.add({"loss": output.loss, **output.metrics})
        return output.loss

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
        return place(bind(reference, self.args.layout), self.args.device)


def _are_loaded(rows: Any) -> bool:
    """Whether rows are in tokens already."""
    if isinstance(rows, RankedGroups):
        return True
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], RankedGroup)


def _adapted(model: Any, config: PeftConfig, seed: int) -> PeftModel:
    if isinstance(model, PeftModel):
        raise UserError(
            "RankingTrainer was given a peft_config for a model that has adapters already: merge "
            "them first (model.merge_and_unload()), or leave peft_config out to train them on."
        )
    return adapted(model, config, seed)


def candidates(groups: Sequence[RankedGroup], output: ResponseLogps) -> Candidates:
    """What the objective sees of B groups; `output` [B, C] has their log-probabilities."""
    logps = output.logps
    shape, device = tuple(logps.shape), logps.device
    # Large scores with small gaps need float64, which Apple's GPUs do not have.
    scores_dtype = torch.float32 if device.type == "mps" else torch.float64

    def padded(rows: Iterable[Sequence[float]], dtype: torch.dtype) -> torch.Tensor:
        table = [[*row, *[0] * (shape[1] - len(row))] for row in rows]
        return torch.tensor(table, dtype=dtype, device=device).reshape(shape)

    reference = [group.reference_logps for group in groups]
    known = [row for row in reference if row is not None]
    return Candidates(
        logps=logps,
        lengths=output.lengths,
        scores=padded((group.scores for group in groups), scores_dtype),
        mask=padded(([1] * len(group.scores) for group in groups), torch.bool),
        ranks=padded((group.ranks for group in groups), torch.long),
        reference_logps=padded(known, logps.dtype) if len(known) == len(groups) else None,
    )
