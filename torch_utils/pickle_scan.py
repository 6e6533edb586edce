"""Reads over a pickle without building anything, and refuses what would exhaust the reader.

The C unpickler reserves memory for lengths that it has not checked, and it hashes dictionary keys
and set members: a few hundred bytes of tuples that contain the same tuple twice, forty levels deep,
are 2^40 values to a hash function. So the stream is followed here first, with the number of values
in place of each value.
"""

from __future__ import annotations

import io
import pickletools
from typing import Any

from torch_utils.pickle_records import damaged

MAX_HASHED_VALUES = 10_000_000
"""Values that a stream may have hashed or passed to calls, counted as often as they are reached."""

_MARK = None  # in place of a size, on the stack


class _Size:
    """Number of values that one value holds, itself included. Lists and dicts grow."""

    __slots__ = ("count",)

    def __init__(self, count: int = 1) -> None:
        self.count = count


class _Stack:
    """The unpickler's stack and memo, with sizes in place of values."""

    def __init__(self) -> None:
        self.hashed = 0
        self._stack: list[_Size | None] = []
        self._memo: dict[int, _Size] = {}

    def step(self, opcode: Any, argument: Any) -> None:
        """Does what an instruction does to the stack.

        Raises:
            IndexError, KeyError: The stack or the memo does not hold what the instruction takes.
        """
        name = opcode.name
        if name == "MARK":
            self._stack.append(_MARK)
        elif name.endswith("GET"):
            self._stack.append(self._memo[int(argument)])
        elif name.endswith("PUT"):
            self._memo[int(argument)] = self._top()
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name == "DUP":
            self._stack.append(self._top())
        elif name == "POP":
            self._stack.pop()
        else:
            self._build(opcode)

    def _build(self, opcode: Any) -> None:
        taken: list[_Size] = []
        for kind in reversed(opcode.stack_before):
            if kind is pickletools.stackslice:
                while self._stack[-1] is not _MARK:
                    taken.append(self._pop())
            elif kind is pickletools.markobject:
                self._stack.pop()
            else:
                taken.append(self._pop())
        taken.reverse()
        self._count_hashed(opcode.name, taken)
        if not opcode.stack_after:
            return
        if opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
            # The container itself comes back, which other values may hold already.
            taken[0].count += sum(size.count for size in taken[1:])
            self._stack.append(taken[0])
            return
        self._stack.append(_Size(1 + sum(size.count for size in taken)))

    def _count_hashed(self, name: str, taken: list[_Size]) -> None:
        if name in ("SETITEM", "SETITEMS"):
            taken = taken[1::2]
        elif name == "DICT":
            taken = taken[::2]
        elif name not in ("ADDITEMS", "FROZENSET", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ"):
            return
        self.hashed += sum(size.count for size in taken)

    def _top(self) -> _Size:
        if self._stack[-1] is _MARK:
            raise IndexError("a mark is on top of the stack")
        return self._stack[-1]

    def _pop(self) -> _Size:
        top = self._top()
        self._stack.pop()
        return top


def scan(data: bytes, start: int) -> int:
    """Reads over one pickle and returns the position after it.

    Every length in the stream is compared with the bytes that are there, memo numbers with the
    number of instructions, and what is hashed with `MAX_HASHED_VALUES`.

    Args:
        data: The stream, perhaps with other things before and after it.
        start: Where the pickle begins.

    Raises:
        dnnlib.UserError: The stream is damaged or hostile.
        Exception: Whatever `pickletools` raises for what is no pickle.
    """
    stream, stack = io.BytesIO(data), _Stack()
    stream.seek(start)
    for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
        if "PUT" in opcode.name and argument > count:
            raise damaged(f"memo number {argument} at byte {position}")
        if opcode.name.startswith("EXT"):
            # The unpickler may answer these from a cache, without asking `find_class`.
            raise damaged(f"extension code at byte {position}")
        if opcode.name == "FRAME" and argument > len(data) - position:
            raise damaged(f"it ends within a frame of {argument} bytes")
        stack.step(opcode, argument)
        if stack.hashed > MAX_HASHED_VALUES:
            raise damaged(f"values without end at byte {position}")
    return stream.tell()
