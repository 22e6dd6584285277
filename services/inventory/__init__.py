"""Stock, and what of it is promised to orders."""
