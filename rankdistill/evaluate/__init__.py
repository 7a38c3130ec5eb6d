"""What a model is worth: figures with their uncertainty, and the `report` of a run."""
