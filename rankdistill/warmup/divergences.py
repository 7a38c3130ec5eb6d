"""The public name of the divergences, `rankdistill.objectives.divergences`."""

from rankdistill.objectives.divergences import forward_kl, jsd, reverse_kl

__all__ = ["forward_kl", "jsd", "reverse_kl"]
