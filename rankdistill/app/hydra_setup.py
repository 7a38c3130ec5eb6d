"""What Hydra is offered: schemas, recipes, suites, resolvers."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from rankdistill.app import catalogue
from rankdistill.app.config_errors import replaced_option
from rankdistill.evaluate import schema as suites
from rankdistill.schema import (
    ClusterConfig,
    PromptsConfig,
    RankConfig,
    RetrievalConfig,
    RoundReference,
    SampleConfig,
    StudentConfig,
    TeacherConfig,
)
from rankdistill.score import schema as score
from rankdistill.score.ensemble import Ensemble
from rankdistill.stages.values import OF_OPTIONS
from rankdistill.train import schema as train
from rankdistill.warmup import schema as warmup

NO_RECIPE = "none"
"""The recipe that overrides nothing: `conf/config.yaml` as it is."""


def run_name(overrides: Sequence[str]) -> str:
    """A folder name for a command: its `name`, else its recipe, then its other overrides.

    Characters that a folder name cannot have become `-`; a long name is cut and gets a hash. A
    choice of one value is that value.
    """
    one = [re.sub(r"=choice\(([^,]*)\)$", r"=\1", override) for override in overrides]
    named = [override.removeprefix("name=") for override in one if override.startswith("name=")]
    if named and named[-1] not in ("", "null"):
        one = [named[-1].strip("'\"")]
    unsaid = (f"recipe={NO_RECIPE}", "name=null")
    one = [override for override in one if override not in unsaid]
    parts = sorted(one, key=lambda part: (not part.startswith("recipe="), part))
    name = ",".join(part.removeprefix("recipe=") for part in parts) or "defaults"
    clean = re.sub(r"[^\w.,=+-]+", "-", name).strip("-.") or "run"
    if clean == name and len(name) <= 80:
        return name
    return f"{clean[:64]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def point_name(overrides: Sequence[str]) -> str:
    """A folder name for a point of a sweep, within that of the sweep, whose `name` and `contrasts`
    all share."""
    shared = ("name=", "contrasts=")
    return run_name([override for override in overrides if not override.startswith(shared)])


def own_code(folder: Path) -> None:
    """Have Python find the modules beside one's own recipes and options, here and in what is
    started from here, such as the workers of a sweep."""
    path = str(folder.absolute())
    if path not in sys.path:
        sys.path.append(path)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if path not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, known), path])


def register(groups: Collection[str] = ()) -> None:
    """Offer schemas, recipes and suites to Hydra, and the resolvers that name run folders.

    Args:
        groups: Those that are `opened`.
    """
    from hydra.core.hydra_config import HydraConfig

    _store()
    _open(groups)

    def overrides(root: Any) -> list[str]:
        return list((root.get("hydra") or HydraConfig.get()).overrides.task)

    def named(*, _root_: Any) -> str:
        return run_name(overrides(_root_))

    def point(*, _root_: Any) -> str:
        return point_name(overrides(_root_))

    OmegaConf.register_new_resolver("run_name", named, replace=True)
    OmegaConf.register_new_resolver("point_name", point, replace=True)
    # Cached: Hydra hands what the sweep's own command came to on to its points.
    OmegaConf.register_new_resolver("sweep_name", run_name, replace=True, use_cache=True)
    OmegaConf.register_new_resolver(
        "gpus_of_point", lambda: int(shutil.which("nvidia-smi") is not None), replace=True
    )


@cache
def _store() -> None:
    """What the package ships, once: reading all recipes takes as long as composing one."""
    from hydra.core.config_store import ConfigStore

    register_schemas()
    store = ConfigStore.instance()
    for name, path in catalogue.recipe_files().items():
        node = OmegaConf.create(path.read_text(encoding="utf-8"))
        store.store(group="recipe", name=name, package="_global_", node=node)
    store.store(group="recipe", name=NO_RECIPE, package="_global_", node={})
    for name, path in catalogue.suite_files().items():
        node = OmegaConf.create(path.read_text(encoding="utf-8"))
        store.store(group="eval", name=name, package=f"eval.{name}", node=node)
    _prefer_own_plug_ins()


def opened() -> frozenset[str]:
    """Groups that take keys which the chosen option has not, for `leave_out` to find."""
    return frozenset(_opened)


def open_replaced(error: Exception, arguments: Sequence[str]) -> bool:
    """Opens the group in which a recipe sets what its option, chosen by the command line, has not.

    Args:
        error: What composing raised.
        arguments: The command line.

    Returns:
        Whether there was one to open, so that composing again gets further.
    """
    group = replaced_option(error, arguments)
    if group is None or group in _opened:
        return False
    _open({*_opened, group})
    return True


_opened: set[str] = set()


def _open(groups: Collection[str]) -> None:
    from hydra.core.config_store import ConfigStore

    stored = ConfigStore.instance().repo["schema"]
    for path in SCHEMAS:
        group, _, name = path.partition("/")
        if group in OF_OPTIONS:
            node = (stored[group][f"{name}.yaml"] if name else stored[f"{group}.yaml"]).node
            OmegaConf.set_struct(node, False if group in groups else None)
    _opened.clear()
    _opened.update(groups)


def _prefer_own_plug_ins() -> None:
    """Launchers and sweepers as `conf/hydra` has them: Hydra would check a file of the same name as
    a plug-in's own configuration against that one, defaults list and all."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # their configurations are stored now, and no second time
    stored = ConfigStore.instance().repo.get("hydra", {})
    for group, names in catalogue.plug_ins().items():
        for name in names:
            stored.get(group, {}).pop(f"{name}.yaml", None)


@dataclass
class Config:
    """A whole run. The groups are typed by their own schema."""

    prompts: Any
    student: Any
    teacher: Any
    warmup: Any
    sample: Any
    score: Any
    rank: Any
    reward: Any
    objective: Any
    train: Any
    eval: Any
    base: str | None
    rounds: int
    round_reference: RoundReference
    seed: int
    name: str | None
    contrasts: list[str]
    report_to: Any
    """A name or a list of names."""
    retrieval: Any = None
    cluster: Any = None


SCHEMAS: dict[str, type] = {
    "prompts": PromptsConfig,
    "teacher": TeacherConfig,
    "student": StudentConfig,
    "warmup/none": warmup.NoWarmupOptions,
    "warmup/logits": warmup.LogitsOptions,
    "warmup/sft": warmup.SFTOptions,
    "warmup/hidden": warmup.HiddenOptions,
    "warmup/on_policy": warmup.OnPolicyOptions,
    "warmup/cross_tokenizer": warmup.CrossTokenizerOptions,
    "sample": SampleConfig,
    "score/likelihood": score.LikelihoodOptions,
    "score/judge": score.JudgeOptions,
    "score/rubric": score.RubricOptions,
    "score/ensemble": Ensemble,
    "score/verifier": score.VerifierOptions,
    "score/writer": score.WriterOptions,
    "score/reward_model": score.RewardModelOptions,
    "rank": RankConfig,
    "retrieval": RetrievalConfig,
    "cluster": ClusterConfig,
    "reward": train.RewardOptions,
    "train": train.TrainOptions,
    "train/ppo": train.PPOTrainOptions,
    "eval/quick": suites.QuickOptions,
    "eval/ranked": suites.RankedOptions,
    "eval/verified": suites.VerifiedOptions,
    "eval/gsm8k": suites.HarnessOptions,
    "eval/hellaswag": suites.HarnessOptions,
    "eval/ifeval": suites.IFEvalOptions,
    "eval/ifbench": suites.IFBenchOptions,
    "eval/mt_bench": suites.MTBenchOptions,
    "eval/alpaca_eval": suites.AlpacaEvalOptions,
    "eval/pairs": suites.PairsOptions,
}

PLUG_INS = ("warmup", "score", "eval")
"""Groups whose options name a class, `_target_`, beside its keys ..."""

BUILT_IN = ("eval/quick", "eval/ranked", "eval/verified")
"""... but for these, which the evaluate stage measures."""


def register_schemas() -> None:
    """Offer the schemas to the defaults lists in `conf/` as `/schema/<name>@_here_`."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for path, kind in SCHEMAS.items():
        group, _, name = f"schema/{path}".rpartition("/")
        plug_in = path.split("/")[0] in PLUG_INS and path not in BUILT_IN
        store.store(group=group, name=name, node=_schema(kind, plug_in))


def _schema(kind: type, plug_in: bool) -> DictConfig:
    """The names and types of a dataclass for Hydra; the values are those of the YAML files.

    OmegaConf makes a frozen dataclass read-only, and gives it no place for what Hydra builds it by:
    `_target_`, and `_convert_` where a key holds other keys.
    """
    node = OmegaConf.structured(kind)
    OmegaConf.set_readonly(node, False)
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return node
    types = get_type_hints(kind)
    with open_dict(node):
        for own in fields(kind):
            nested = is_dataclass(types[own.name])
            node[own.name] = _schema(types[own.name], plug_in) if nested else MISSING
            if plug_in and (nested or get_origin(types[own.name]) is dict):
                node["_convert_"] = MISSING
        if plug_in:
            node["_target_"] = MISSING
    return node
