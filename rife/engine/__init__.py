"""A network run with a fraction of the work, on the CPU and by GPU kernels."""
