"""What Weft costs: `python -m bench` measures, and prints one table. docs/benchmarks.md says what each figure means."""
