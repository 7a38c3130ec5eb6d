"""``python -m rankdistill.runs``: what was run here, and what came of it."""
