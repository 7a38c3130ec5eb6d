"""What changed in the answers between two students: ``python -m rankdistill.diff RUN_A RUN_B``."""
