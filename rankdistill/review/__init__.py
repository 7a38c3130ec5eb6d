"""A page on this machine to rank responses by hand: ``python -m rankdistill.review RANKED``."""
