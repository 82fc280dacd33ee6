"""Read the header of a GGUF file without believing it: every count, length and offset is checked before it is used.

A file is `magic, version, number of tensors, number of keys`, then the keys with their values, then one record per
tensor (name, dimensions with the fastest first, type, offset), padding, and the tensors one after another, each padded
to the alignment. Nothing is allocated in proportion to what the file claims, only to what it really holds.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from small4.errors import CheckpointNotFoundError, HeaderError, UnsupportedModelError

MAX_TENSORS = 200_000
MAX_KEYS = 10_000
MAX_KEY_BYTES = 512
MAX_NAME_BYTES = 512
MAX_STRING_BYTES = 16 * 1024 * 1024  # a value; chat templates are the longest
MAX_ARRAY_ITEMS = 16 * 1024 * 1024  # merges of a vocabulary are the longest
MIN_ALIGNMENT, MAX_ALIGNMENT = 8, 1024 * 1024
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

# Type number -> name, values per block, bytes per block.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
LAST_TYPE = 64  # numbers beyond it are no type but damage

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class ArrayValue:
    """An array among the values; its items are checked but stay in the file until asked for."""

    item_type: int
    length: int
    offset: int  # of the first item in the file


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """Where a tensor lies. `shape` has the slowest dimension first, as torch has it."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """All that precedes the weights."""

    path: Path
    values: dict[str, Value | ArrayValue]
    tensors: dict[str, TensorRecord]


def read_header(path: Path) -> GgufHeader:
    """Check and read the header; HeaderError says what is wrong, UnsupportedModelError what is not implemented."""
    if not path.is_file():
        raise CheckpointNotFoundError(f"there is no file {path}")
    if path.stat().st_size == 0:
        return parse_header(path, b"")  # nothing can be mapped of it
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return parse_header(path, data)


def parse_header(path: Path, data: bytes | mmap.mmap) -> GgufHeader:
    """`read_header` of content at hand; the path is for messages and for reading arrays later."""
    return _Reader(path, data).header()


def read_array(header: GgufHeader, key: str) -> list[Value]:
    """The items of an array value."""
    array = header.values.get(key)
    if not isinstance(array, ArrayValue):
        raise HeaderError(f"{header.path}: {key} is not an array")
    with header.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(header.path, data, array.offset)
        return [reader.scalar(array.item_type, key) for _ in range(array.length)]


class _Reader:
    """Walks through the header; `position` never passes the end of the file."""

    def __init__(self, path: Path, data: bytes | mmap.mmap, position: int = 0) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.position = position

    def header(self) -> GgufHeader:
        self._skip(24)
        magic, version, num_tensors, num_keys = struct.unpack_from("<4sIQQ", self.data)
        if magic != b"GGUF":
            raise self._error(f"it starts with {magic!r}, not with GGUF")
        if version not in (2, 3):
            raise self._error(f"version {version} is not 2 or 3 (a big-endian file?)")
        if num_tensors > MAX_TENSORS:
            raise self._error(f"it claims {num_tensors} tensors, the limit is {MAX_TENSORS}")
        if num_keys > MAX_KEYS:
            raise self._error(f"it claims {num_keys} keys, the limit is {MAX_KEYS}")
        values: dict[str, Value | ArrayValue] = {}
        for _ in range(num_keys):
            key = self._string(MAX_KEY_BYTES, "a key")
            if key in values:
                raise self._error(f"the key {key!r} comes twice")
            values[key] = self._value(key)
        alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            raise self._error(f"the alignment {alignment!r} is no power of two in {MIN_ALIGNMENT} to {MAX_ALIGNMENT}")
        records = [self._record(alignment) for _ in range(num_tensors)]
        return GgufHeader(self.path, values, dict(self._placed(records, alignment)))

    def scalar(self, kind: int, key: str) -> Value:
        if kind == STRING:
            return self._string(MAX_STRING_BYTES, key)
        layout = SCALARS.get(kind)
        if layout is None:
            raise self._error(f"the value of {key!r} has the unknown type {kind}")
        value: Value = self._unpack(layout)
        return value

    def _value(self, key: str) -> Value | ArrayValue:
        kind: int = self._unpack("<I")
        return self._array(key) if kind == ARRAY else self.scalar(kind, key)

    def _array(self, key: str) -> ArrayValue:
        kind: int = self._unpack("<I")
        length: int = self._unpack("<Q")
        if length > MAX_ARRAY_ITEMS:
            raise self._error(f"the array {key!r} claims {length} items, the limit is {MAX_ARRAY_ITEMS}")
        array = ArrayValue(kind, length, self.position)
        if kind == STRING:
            for _ in range(length):
                self._skip(self._length(MAX_STRING_BYTES, key))
        elif kind in SCALARS:
            self._skip(length * struct.calcsize(SCALARS[kind]))
        else:
            raise self._error(f"the array {key!r} has items of the unknown or unsupported type {kind}")
        return array

    def _record(self, alignment: int) -> TensorRecord:
        """One tensor's record, its offset still counted from the start of the tensor data."""
        name = self._string(MAX_NAME_BYTES, "a tensor's name")
        num_dimensions: int = self._unpack("<I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise self._error(f"{name!r} has {num_dimensions} dimensions, allowed are 1 to {MAX_DIMENSIONS}")
        dimensions = [self._unpack("<Q") for _ in range(num_dimensions)]
        type_number: int = self._unpack("<I")
        offset: int = self._unpack("<Q")
        if type_number not in TENSOR_TYPES:
            if type_number > LAST_TYPE:
                raise self._error(f"{name!r} has the impossible type {type_number}")
            raise UnsupportedModelError(
                f"{self.path}: the tensor {name!r} has the GGML type number {type_number}; small4 reads "
                f"{', '.join(TYPE_NUMBERS)}. Use a file quantised to one of these"
            )
        type_name, block_values, block_bytes = TENSOR_TYPES[type_number]
        # Python's integers do not overflow, so a lying product is simply too large for the file.
        num_values = math.prod(dimensions)
        if num_values == 0 or dimensions[0] % block_values:
            raise self._error(
                f"{name!r} of {dimensions} cannot be {type_name}, whose rows are blocks of {block_values}"
            )
        if offset % alignment:
            raise self._error(f"{name!r} starts at {offset}, which is not aligned to {alignment}")
        return TensorRecord(name, type_name, tuple(dimensions[::-1]), offset, num_values // block_values * block_bytes)

    def _placed(self, records: list[TensorRecord], alignment: int) -> Iterator[tuple[str, TensorRecord]]:
        """The records with offsets in the file; they must fill it, in any order, without gap or overlap."""
        start = expected = _align(self.position, alignment)
        seen: set[str] = set()
        for record in sorted(records, key=lambda record: record.offset):
            at = start + record.offset
            if record.name in seen:
                raise self._error(f"the tensor {record.name!r} comes twice")
            if at != expected:
                raise self._error(f"the tensor {record.name!r} starts at byte {at}, expected is {expected}")
            if at + record.num_bytes > self.size:
                raise self._error(f"the tensor {record.name!r} ends at byte {at + record.num_bytes} of {self.size}")
            seen.add(record.name)
            end, expected = at + record.num_bytes, _align(at + record.num_bytes, alignment)
            if any(self.data[end:expected]):  # a tensor of a wrong, narrower type would end early
                raise self._error(f"the padding after {record.name!r} is not zero")
            yield record.name, TensorRecord(record.name, record.type_name, record.shape, at, record.num_bytes)
        if self.size > expected:
            raise self._error(f"{self.size - expected} bytes follow the last tensor")

    def _string(self, limit: int, what: str) -> str:
        length = self._length(limit, what)
        start = self.position
        self._skip(length)
        try:
            return self.data[start : self.position].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"{what} at byte {start} is not UTF-8") from error

    def _length(self, limit: int, what: str) -> int:
        length: int = self._unpack("<Q")
        if length > limit:
            raise self._error(f"{what} at byte {self.position} claims {length} bytes, the limit is {limit}")
        return length

    def _unpack(self, layout: str) -> int:
        start = self.position
        self._skip(struct.calcsize(layout))
        (value,) = struct.unpack_from(layout, self.data, start)
        return value  # type: ignore[no-any-return]

    def _skip(self, num_bytes: int) -> None:
        if self.position + num_bytes > self.size:
            raise self._error(f"it breaks off: byte {self.position + num_bytes} is needed, it has {self.size}")
        self.position += num_bytes

    def _error(self, what: str) -> HeaderError:
        return HeaderError(f"{self.path} is not a sound GGUF file: {what}. Fetch or convert it again")


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
