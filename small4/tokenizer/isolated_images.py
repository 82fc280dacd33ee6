"""`prepare_image` in processes of their own: the same pixels, and an image that takes too much ends nothing here."""

import json
from dataclasses import asdict, dataclass
from queue import LifoQueue

import numpy as np
import numpy.typing as npt

from small4.errors import ImageError
from small4.isolation import Child
from small4.tokenizer.images import ImageGrid, check_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What decoding one image may take, and how many are decoded at once."""

    max_seconds: float = 10.0  # of processor time
    max_bytes: int = 1280 * 2**20  # of memory; the largest WebP that is allowed takes 1020
    num_processes: int = 2  # each is started when those before it are busy
    start_seconds: float = 30.0  # for a process to start


class IsolatedImages:
    """Prepares images in other processes. Safe to call from several threads; a call may take seconds."""

    def __init__(self, limits: ImageLimits | None = None) -> None:
        self.limits = limits or ImageLimits()
        self.children = [
            Child("small4.tokenizer.image_process", tuple, self.limits.start_seconds)
            for _ in range(self.limits.num_processes)
        ]
        self._free: LifoQueue[Child] = LifoQueue()  # whoever was busy last is asked first
        for child in self.children:
            self._free.put(child)

    def prepare(self, data: bytes, grid: ImageGrid) -> npt.NDArray[np.float32]:
        """As `prepare_image`."""
        check_file(data)
        head = {"size": len(data), "grid": asdict(grid)}
        head |= {"seconds": self.limits.max_seconds, "bytes": self.limits.max_bytes}
        child = self._free.get()
        try:
            answer = child.ask([json.dumps(head).encode() + b"\n", data], self.limits.max_seconds)
        finally:
            self._free.put(child)
        if answer is None:
            raise ImageError(
                f"the image takes more than {self.limits.max_seconds:g} s or {self.limits.max_bytes // 2**20} MiB "
                "to decode; scale it down, or save it anew"
            )
        if "error" in answer.line:
            raise ImageError(answer.line["error"])
        return np.frombuffer(answer.data, np.float32).reshape(answer.line["shape"])

    def close(self) -> None:
        """Ends the processes; the next image starts another."""
        for child in self.children:
            child.close()
