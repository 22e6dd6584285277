"""The catalogue: what is for sale, and at which price."""
