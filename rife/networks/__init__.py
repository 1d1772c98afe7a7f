"""The RIFE networks in plain torch, the reference that the engine and its kernels are held to."""
