"""Checkpoints: files read, recognised, listed and downloaded."""
