"""A configuration of TRL or the alignment-handbook as overrides of ours, and what has no place.

python -m rankdistill.migrate FILE [--to recipe/NAME.yaml]
"""
