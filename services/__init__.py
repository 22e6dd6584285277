"""The bounded contexts, one package each; they meet only through `proto/`."""
