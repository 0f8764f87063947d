"""Checkpoints on disk: safetensors shards, adapters, configuration, atomic output."""
