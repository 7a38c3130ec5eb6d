"""What a model is worth: figures with their uncertainty (`students`, `statistics`), and the `report`."""
