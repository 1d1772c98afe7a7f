"""Analyses frames before they are interpolated: detects cuts and repeated frames."""
