"""Sampling and scoring on other machines: replicas of the sampler or the scorer, placed by Ray."""
