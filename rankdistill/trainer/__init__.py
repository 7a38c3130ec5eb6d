"""What every training shares: steps, batches, checkpoints."""
