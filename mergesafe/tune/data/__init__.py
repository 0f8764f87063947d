"""What an objective is computed on: records, their splits and batches."""
