"""What forks of `forked.py` have imported: no garbage, which none of them looks through again."""

from __future__ import annotations

import frozen
import shortcuts  # noqa: F401

import rankdistill.app.cli
import rankdistill.sample.transformers
import rankdistill.stages.pipeline
import rankdistill.warmup.logits  # noqa: F401

frozen.keep()
