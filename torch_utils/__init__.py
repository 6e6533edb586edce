"""Helpers around torch that know nothing of this project's networks."""
