"""``python -m rankdistill.init DIR``: a project to begin with, of files that run as they are."""
