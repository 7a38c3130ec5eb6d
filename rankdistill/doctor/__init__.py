"""``python -m rankdistill.doctor``: what is installed, what is broken, and what mends it."""
