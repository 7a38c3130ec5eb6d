"""A model behind an OpenAI-compatible server: ``python -m rankdistill.serve RUN``."""
