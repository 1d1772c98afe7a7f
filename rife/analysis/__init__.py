"""What frames show: cuts, and frames that repeat."""
