"""The sub-commands of explore.py: options only. Nothing here imports torch outside functions."""
