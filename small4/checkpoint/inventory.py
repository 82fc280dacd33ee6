"""Compares the tensors that a config asks for with those that the files hold, by header alone.

Every parameter of the model is one matrix in the files, except fused experts in the official form, which are many. A
matrix is stored as one tensor, or as codes with scales under these names:

    Hugging Face FP8   X.weight, X.weight_scale_inv, X.activation_scale;  experts: X, X_scale_inv, X_activation_scale
    official FP8       X.weight, X.qscale_weight, X.qscale_act
    official NVFP4     X.weight_packed, X.weight_scale, X.weight_global_scale, X.input_global_scale
"""

from dataclasses import dataclass, field

import torch

from small4.checkpoint.blank import Shape, parameter_shapes
from small4.checkpoint.header import Entry
from small4.checkpoint.locate import Family
from small4.checkpoint.names import expert_names, hf_name, is_fused_experts, plain_hf_name
from small4.checkpoint.shards import Shards
from small4.checkpoint.stored import FP8, NVFP4_GROUP, Config
from small4.errors import TensorMismatchError

DENSE_TYPES = (torch.bfloat16, torch.float32, torch.float16, torch.float64)
IGNORED_ENDINGS = ("_fake_quantizer.qscale_act", "rotary_emb.inv_freq")  # of an FP8 cache; derived from the config
MAX_NAMED = 20  # tensors of one kind that an error message spells out


@dataclass(frozen=True, slots=True)
class Parts:
    """The names under which one matrix may lie in a file; those after `weight` belong to quantised forms."""

    weight: str
    scale: str
    activation_scale: str
    packed: str | None = None
    group_scale: str | None = None
    global_scale: str | None = None
    input_scale: str | None = None


def hf_parts(weight: str) -> Parts:
    if not weight.endswith(".weight"):
        return Parts(weight, f"{weight}_scale_inv", f"{weight}_activation_scale")
    module = weight.removesuffix("weight")
    return Parts(weight, f"{weight}_scale_inv", f"{module}activation_scale")


def native_parts(weight: str) -> Parts:
    module = weight.removesuffix("weight")
    return Parts(
        weight,
        f"{module}qscale_weight",
        f"{module}qscale_act",
        f"{weight}_packed",
        f"{weight}_scale",
        f"{weight}_global_scale",
        f"{module}input_global_scale",
    )


def file_matrices(family: Family, official: str, shape: Shape) -> list[tuple[Parts, Shape]]:
    """The matrices that make up a parameter in a file, with their shapes; Hugging Face names are the plain ones."""
    if family == "hf":
        name = hf_name(official, "release")
        return [] if name is None else [(hf_parts(plain_hf_name(name)), shape)]
    if not is_fused_experts(official):
        return [(native_parts(official), shape)]
    names = expert_names(official, shape[0])
    rows = shape[1] // len(names[0])
    return [(native_parts(name), (rows, *shape[2:])) for expert in names for name in expert]


@dataclass(slots=True)
class Inventory:
    """What was found, and what does not fit."""

    present: list[str] = field(default_factory=list)  # parameters of the model that the files hold whole
    missing: list[str] = field(default_factory=list)  # names of tensors in the files' own spelling, as below
    unexpected: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # each with what is there and what the config asks for
    has_fp8: bool = False
    has_nvfp4: bool = False
    dense_types: set[torch.dtype] = field(default_factory=set)

    def raise_if_wrong(self, config_name: str) -> None:
        """TensorMismatchError naming what does not fit."""
        problems = [
            f"{len(names)} {kind}: {', '.join(names[:MAX_NAMED])}{', ...' if len(names) > MAX_NAMED else ''}"
            for kind, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape or type", self.wrong),
            )
            if names
        ]
        if problems:
            raise TensorMismatchError(
                f"the tensors do not fit {config_name}. {'. '.join(problems)}. "
                "Fetch the checkpoint again, or use the config that it was saved with"
            )


def take_inventory(config: Config, family: Family, shards: Shards) -> Inventory:
    """Compare by header; `shards.names()` of Hugging Face files may carry any style's prefix."""
    spelling = {plain_hf_name(name) if family == "hf" else name: name for name in shards.names()}
    if len(spelling) != len(shards.names()):
        twice = next(name for name in shards.names() if spelling[plain_hf_name(name)] != name)
        raise TensorMismatchError(f"{twice} is there twice, under two prefixes")
    entries = {name: shards.entry(actual) for name, actual in spelling.items()}
    found, used = Inventory(), set[str]()
    for official, shape in parameter_shapes(config).items():
        before = len(found.missing) + len(found.wrong)
        matrices = file_matrices(family, official, shape)
        for parts, matrix_shape in matrices:
            _match(found, used, entries, parts, matrix_shape)
        if matrices and len(found.missing) + len(found.wrong) == before:
            found.present.append(official)
    found.unexpected = [
        actual for name, actual in spelling.items() if name not in used and not name.endswith(IGNORED_ENDINGS)
    ]
    return found


def _match(found: Inventory, used: set[str], entries: dict[str, Entry], parts: Parts, shape: Shape) -> None:
    """Find one matrix in whichever form it has."""

    def need(name: str | None, wanted: Shape | int, dtypes: tuple[torch.dtype, ...], optional: bool = False) -> None:
        entry = entries.get(name) if name is not None else None
        if name is None or entry is None:
            if not optional:
                found.missing.append(str(name))
            return
        used.add(name)
        fits = entry.shape == wanted if isinstance(wanted, tuple) else entry.shape.count(1) >= len(entry.shape) - 1
        if isinstance(wanted, int):
            fits = fits and entry.num_bytes == wanted * entry.dtype.itemsize
        if not fits or entry.dtype not in dtypes:
            asked = list(wanted) if isinstance(wanted, tuple) else f"{wanted} of them"
            found.wrong.append(f"{name} ({_kind(entry.dtype)} {list(entry.shape)}, needed {asked})")

    # One scale for a matrix; a stack of matrices in one tensor (fused experts) has one for each.
    num_scales = shape[0] if len(shape) == 3 else 1
    if parts.packed in entries:
        found.has_nvfp4 = True
        need(parts.packed, (*shape[:-1], shape[-1] // 2), (torch.uint8,))
        need(parts.group_scale, (*shape[:-1], shape[-1] // NVFP4_GROUP), (FP8,))
        need(parts.global_scale, num_scales, DENSE_TYPES)
        need(parts.input_scale, num_scales, DENSE_TYPES, optional=True)
        return
    entry = entries.get(parts.weight)
    if entry is not None and entry.dtype == FP8:
        found.has_fp8 = True
        need(parts.weight, shape, (FP8,))
        need(parts.scale, num_scales, DENSE_TYPES)
        need(parts.activation_scale, num_scales, DENSE_TYPES, optional=True)
        return
    if entry is not None:
        found.dense_types.add(entry.dtype)
    need(parts.weight, shape, DENSE_TYPES)


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
