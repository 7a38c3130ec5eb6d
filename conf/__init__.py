"""Hydra's `pkg://rankdistill.conf` needs a package here; it holds YAML only."""
