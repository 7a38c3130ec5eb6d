"""What a run would need, from closed forms: memory, time and disk of every stage, no weight loaded.

python -m rankdistill.plan recipe=NAME [overrides] hardware=8xa100
"""
