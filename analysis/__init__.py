"""Experiments and measurements: the demo, the benchmark. The library imports nothing from here."""
