"""Searching with a run's re-ranker in the terminal: ``python -m rankdistill.search RUN QUERY``."""
