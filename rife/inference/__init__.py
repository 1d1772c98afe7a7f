"""Frames between two frames, on any device, in the memory at hand."""
