"""Reference vectors and the texts of the parity report."""
