"""YAML only; a package so that the wheel carries it as `rankdistill.recipes`."""
