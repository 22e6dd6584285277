"""The contract that a gateway serves, and where it comes from: a file, or a server that is asked for it."""
