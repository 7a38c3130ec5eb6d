"""Talking to a run's student in the terminal: ``python -m rankdistill.chat RUN``."""
