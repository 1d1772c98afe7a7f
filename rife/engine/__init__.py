"""A network run with a fraction of the work, for the same frames."""
