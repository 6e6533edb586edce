"""Differentiable image operations, one folder each: see `ops/README.md`.

Import from the folder, for example `from ops.upfirdn2d import upfirdn2d`; this package exports
nothing itself, because the folders carry the names of the functions.
"""
