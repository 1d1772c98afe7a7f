"""GPU kernels that take over an engine's work between the convolutions."""
