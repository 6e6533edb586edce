"""How compiled kernels are described, built, registered and called; one library per op."""

from __future__ import annotations

from ops._native.composition import composed_gradients, in_places, room_for_gradients
from ops._native.library import DATA_TYPES, Library, read_headers
from ops._native.registration import build_library, native_op, register_native

__all__ = [
    "DATA_TYPES",
    "Library",
    "build_library",
    "composed_gradients",
    "in_places",
    "native_op",
    "read_headers",
    "register_native",
    "room_for_gradients",
]
