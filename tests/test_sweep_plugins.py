"""Hydra's launchers and sweepers as extras: their configurations."""

from __future__ import annotations

import warnings
from inspect import signature
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from test_configs import uncommented

from rankdistill.app import catalogue
from rankdistill.app.hydra_setup import register
from rankdistill.app.sweep import PACKAGES

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "conf" / "hydra").glob("*/*.yaml"))
OF_ARGUMENTS = ("SlurmLauncher", "LocalLauncher", "JoblibLauncher")
"""They take any keyword; what is right is in the plug-in's own configuration."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_plug_in_is_composed_and_its_class_takes_the_keys(path):
    group, name = f"hydra/{path.parent.name}", path.stem
    given = yaml.safe_load(path.read_text())
    package = given["_target_"].split(".")[1]
    assert PACKAGES[package] in name or name.startswith(PACKAGES[package])
    register()
    GlobalHydra.instance().clear()
    initialized = initialize_config_module("rankdistill.conf", version_base="1.3")
    with warnings.catch_warnings(), initialized:
        warnings.simplefilter("error")  # Hydra's, of a schema of the same name
        config = compose("config", [f"{group}={name}"], return_hydra_config=True)
    chosen = config.hydra[path.parent.name]
    assert set(chosen) == set(given) and chosen._target_ == given["_target_"]
    pytest.importorskip(f"hydra_plugins.{package}")
    plug_in = get_class(given["_target_"])
    if plug_in.__name__ in OF_ARGUMENTS:
        module = __import__(f"hydra_plugins.{package}.config", fromlist=["config"])
        confs = [conf for key, conf in vars(module).items() if key.endswith("Conf")]
        target = given["_target_"]
        (known,) = [c.__dataclass_fields__ for c in confs if vars(c).get("_target_") == target]
    else:
        known = set(signature(plug_in.__init__).parameters) - {"self"} | {"_target_"}
    assert set(given) == set(known)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_comment_above_every_key(path):
    assert uncommented(path) == []


def test_extras_bring_the_plug_ins():
    text = (ROOT / "pyproject.toml").read_text()
    for package, extra in PACKAGES.items():
        assert f'{extra} = ["{package.replace("_", "-")}' in text
    assert set(catalogue.plug_ins()) == {"launcher", "sweeper"}
