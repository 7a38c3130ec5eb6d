"""What forks of `forked.py` have imported: no garbage, which none of them looks through again."""

from __future__ import annotations

import frozen
import pytest
import shortcuts
import tiny_run

import rankdistill.app.cli
import rankdistill.sample.transformers
import rankdistill.stages.pipeline
import rankdistill.warmup.logits  # noqa: F401

with pytest.MonkeyPatch.context() as patch:  # what every run reads is parsed for all
    patch.setattr(shortcuts.ConfigRepository, "load_config", shortcuts.read_once)
    tiny_run.composed("recipe=rrhf")

frozen.keep()
