"""The RIFE networks, plain: what every faster way is held against."""
