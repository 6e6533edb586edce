"""The configuration of the published INR-GAN: its `cfg` dictionary, read strictly.

The published code passes the `generator` section of its configuration, the `cfg`, to its
Generator. Here it is a plain dictionary. `published_settings` resolves its `${a.b}` references
and turns it into the few values that shape the network; whatever it asks for that the presets
`inr-gan-published` and `inr-gan-bil-published` do not have is an error that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The published names of FMM activations and the rows of the table in `ops.fmm`; any other
# published name means "none".
_PUBLISHED_FMM = {"demod": "demod", "tanh": "tanh", "sigmoid": "half-sigmoid"}
# Used by the published training script or for caching, without meaning for the network.
_IGNORED_KEYS = ("fp32", "fmaps", "mapping_net_n_layers", "low_res_cfg", "medium_res_cfg")
_EMBEDDING_SIZES = (
    "log_emb_size",
    "random_emb_size",
    "shared_emb_size",
    "predictable_emb_size",
    "const_emb_size",
)
_MAX_CFG_VALUES = 10000


@dataclass(frozen=True)
class FuserSettings:
    """Which features of the coordinates a block gets (one entry of `coords.res_configs`).

    Attributes:
        log_emb_size: Upper bound of the number of logarithmic frequencies; 0 = none of them.
        random_emb_size: Number of fixed random frequencies.
        shared_emb_size: Number of learned frequencies.
        predictable_emb_size: Number of frequencies and phases predicted from w.
        const_emb_size: Channels of the learned per-pixel table.
        use_raw_coords: Whether the coordinates themselves are features.
        use_cosine: Whether the cosines are features, besides the sines.
        use_diagonal: Whether the logarithmic frequencies include the diagonals.
        fourier_scale: Standard deviation (or range) of the random and learned frequencies.
        init_dist: "randn" = N(0, 1) or "rand" = U(-1, 1), times fourier_scale.
    """

    log_emb_size: int = 0
    random_emb_size: int = 0
    shared_emb_size: int = 0
    predictable_emb_size: int = 0
    const_emb_size: int = 0
    use_raw_coords: bool = False
    use_cosine: bool = False
    use_diagonal: bool = False
    fourier_scale: float = 10**0.5
    init_dist: str = "randn"


@dataclass(frozen=True)
class PublishedSettings:
    """What a published cfg says about the network.

    Attributes:
        upsampling: "nearest" or "bilinear".
        first_lattice: Side of the lowest lattice, on which all blocks up to it live.
        extra_convs: Number of additional layers by lattice.
        per_resolution: Whether only the first block of each lattice gets coordinates.
        rank: Rank of the modulation.
        fmm_activation: A row of the table in `ops.fmm`.
        instance_norm: Whether features are divided by their standard deviation.
        input_fusers: Features of the first block by lattice side, as `FuserSettings`.
        fusers: Features of the other blocks by lattice side.
        larger_fuser: Features of lattices beyond the largest entry; None = there are none.
    """

    upsampling: str
    first_lattice: int
    extra_convs: dict[int, int]
    per_resolution: bool
    rank: int
    fmm_activation: str
    instance_norm: bool
    input_fusers: dict[int, FuserSettings]
    fusers: dict[int, FuserSettings]
    larger_fuser: FuserSettings | None

    def fuser(self, resolution: int, is_input: bool) -> FuserSettings:
        """The features of a block on the lattice of side `resolution`.

        Lattices larger than any that the cfg lists (256 in the published ones) get its
        `medium_res_cfg`, else the entry of the largest one.

        Raises:
            ValueError: The cfg has no entry for it.
        """
        fusers = self.input_fusers if is_input else self.fusers
        if resolution in fusers:
            return fusers[resolution]
        if fusers and resolution > max(fusers):
            return self.larger_fuser or fusers[max(fusers)]
        where = "input.coord_fuser_cfg" if is_input else "coords"
        raise ValueError(f"cfg.{where}.res_configs has no entry '{resolution}'")


def published_cfg(upsampling: str, img_resolution: int = 256) -> dict[str, Any]:
    """The published configuration `inr-gan.yml` (nearest) or `inr-gan-bil.yml` (bilinear).

    Args:
        upsampling: "nearest" or "bilinear".
        img_resolution: The first lattice has side 32, or half of this where that is smaller.

    Returns:
        A new plain dictionary without references.
    """
    low = {
        "log_emb_size": 64,
        "const_emb_size": 128,
        "use_cosine": True,
        "use_diagonal": True,
    }
    medium = {
        "log_emb_size": 32,
        "random_emb_size": 32,
        "const_emb_size": 64,
        "use_cosine": True,
    }
    fmm = {"enabled": True, "rank": 10, "activation": "demod"}
    return {
        "fp32": True,
        "upsampling_mode": upsampling,
        "use_noise": False,
        "fmaps": 1,
        "num_extra_convs": {"128": 1, "256": 1},
        "input": {
            "type": "coords",
            "resolution": min(32, max(4, img_resolution // 2)),
            "coord_fuser_cfg": _published_coords(low, medium),
        },
        "coords": _published_coords(low, medium),
        "fmm": {**fmm, "instance_norm": True} if upsampling == "bilinear" else fmm,
    }


def _published_coords(low: dict[str, Any], medium: dict[str, Any]) -> dict[str, Any]:
    by_lattice = {str(4 << k): dict(low) for k in range(5)}
    return {
        "enabled": True,
        "per_resolution": True,
        "kernel_size": 1,
        "coord_dim": 2,
        "fallback": False,
        "use_full_cache": False,
        "low_res_cfg": dict(low),
        "medium_res_cfg": dict(medium),
        "res_configs": {**by_lattice, "128": dict(medium), "256": dict(medium)},
    }


def resolve_references(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces each `${a.b}` by a copy of what the root of cfg holds under a, b.

    A leading `generator.` is dropped where the root has no such section: the published code
    cuts the section out of a larger configuration.

    Args:
        cfg: Nested mappings and lists with string (or integer) keys.

    Returns:
        Plain dictionaries and lists without references; keys are strings.

    Raises:
        ValueError: A reference leads nowhere, in a circle, or is of another kind.
    """
    if not isinstance(cfg, Mapping):
        raise ValueError(f"cfg must be a dictionary, got {type(cfg).__name__}")
    budget = [_MAX_CFG_VALUES]

    def resolve(value: Any, pending: tuple[str, ...]) -> Any:
        budget[0] -= 1
        if budget[0] < 0 or len(pending) > 100:
            raise ValueError(f"cfg has more than {_MAX_CFG_VALUES} values, or nests too deeply")
        if isinstance(value, Mapping):
            return {str(key): resolve(item, (*pending, "")) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [resolve(item, (*pending, "")) for item in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        if value in pending:
            raise ValueError(f"cfg: {value} refers to itself")
        return resolve(_look_up(cfg, value), (*pending, value))

    return resolve(cfg, ())


def _look_up(cfg: Mapping[str, Any], reference: str) -> Any:
    """What `${a.b}` refers to."""
    path = reference[2:-1].split(".")
    if not reference.startswith("${") or not reference.endswith("}") or not all(path):
        raise ValueError(f"cfg: only references of the form ${{a.b}} are known, not {reference!r}")
    if path[0] == "generator" and "generator" not in cfg:
        path = path[1:]
    value: Any = cfg
    for name in path:
        found = {str(key): item for key, item in value.items()} if _is_map(value) else {}
        if name not in found:
            raise ValueError(f"cfg: {reference} refers to {name!r}, which is not there")
        value = found[name]
    return value


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def published_settings(cfg: Mapping[str, Any]) -> PublishedSettings:
    """Reads a published cfg.

    Args:
        cfg: See `published_cfg`; references allowed.

    Raises:
        ValueError: A key is missing, or asks for what these presets do not have.
    """
    root = _Section(resolve_references(cfg), "cfg")
    upsampling = root.take("upsampling_mode")
    if upsampling not in ("nearest", "bilinear"):
        raise ValueError(
            f"cfg.upsampling_mode={upsampling} is not supported, only nearest and bilinear; "
            "the published configurations stylegan2 and original correspond to preset stylegan2"
        )
    root.require("use_noise", False)
    extra_convs = _Section(root.take("num_extra_convs") or {}, "cfg.num_extra_convs")
    source, coords, fmm = (root.section(name) for name in ("input", "coords", "fmm"))
    root.finish()
    fmm.require("enabled", True)
    activation = str(fmm.take("activation"))
    rank = fmm.number("rank", 1)
    instance_norm = bool(fmm.take("instance_norm"))
    fmm.finish()
    source.require("type", "coords")
    first_lattice = source.number("resolution", 4)
    input_coords = source.section("coord_fuser_cfg")
    source.finish()
    _, input_fusers, _ = _read_coords(input_coords)
    per_resolution, fusers, larger = _read_coords(coords)
    return PublishedSettings(
        upsampling=upsampling,
        first_lattice=first_lattice,
        extra_convs={
            lattice: extra_convs.number(key, 0) for lattice, key in extra_convs.lattices()
        },
        per_resolution=per_resolution,
        rank=rank,
        fmm_activation=_PUBLISHED_FMM.get(activation, "none"),
        instance_norm=instance_norm,
        input_fusers=input_fusers,
        fusers=fusers,
        larger_fuser=larger,
    )


def _read_coords(
    section: _Section,
) -> tuple[bool, dict[int, FuserSettings], FuserSettings | None]:
    """Reads `coords` or `input.coord_fuser_cfg`: per_resolution, entries, entry for larger."""
    section.require("enabled", True)
    section.require("kernel_size", 1)
    section.require("coord_dim", 2)
    section.require("fallback", False)
    section.take("use_full_cache")
    per_resolution = bool(section.take("per_resolution"))
    medium = section.values.get("medium_res_cfg")
    entries = section.section("res_configs")
    section.finish()
    fusers = {
        lattice: _read_fuser(entries.values[key], f"{entries.name}.{key}")
        for lattice, key in entries.lattices()
    }
    larger = _read_fuser(medium, f"{section.name}.medium_res_cfg") if medium else None
    return per_resolution, fusers, larger


def _read_fuser(entry: Any, name: str) -> FuserSettings:
    section = _Section(entry, name)
    sizes = {key: section.number(key, 0) for key in _EMBEDDING_SIZES if key in section.values}
    flags = {
        key: bool(section.take(key)) for key in ("use_raw_coords", "use_cosine", "use_diagonal")
    }
    init_dist = section.take("init_dist") or "randn"
    if init_dist not in ("randn", "rand"):
        raise ValueError(f"{name}.init_dist must be randn or rand, got {init_dist!r}")
    scale = section.take("fourier_scale")
    section.finish()
    return FuserSettings(
        **sizes,
        **flags,
        fourier_scale=10**0.5 if scale is None else float(scale),
        init_dist=init_dist,
    )


class _Section:
    """One dictionary of a cfg, from which keys are taken; what is left is not known here."""

    def __init__(self, values: Any, name: str) -> None:
        if not isinstance(values, Mapping):
            raise ValueError(f"{name} must be a dictionary, got {values!r}")
        self.values = dict(values)
        self.name = name

    def take(self, key: str) -> Any:
        """The value of a key; None where it is missing."""
        return self.values.pop(key, None)

    def section(self, key: str) -> _Section:
        """The dictionary under a key."""
        return _Section(self.take(key), f"{self.name}.{key}")

    def lattices(self) -> list[tuple[int, str]]:
        """The keys, which must be sides of lattices, as integers and as they are."""
        for key in self.values:
            if not (key.isascii() and key.isdigit()):
                raise ValueError(f"{self.name} has a key {key!r}, which is no lattice side")
        return [(int(key), key) for key in self.values]

    def number(self, key: str, least: int) -> int:
        """The integer under a key, at least `least`."""
        value = self.take(key)
        if value is None or isinstance(value, (bool, str)) or int(value) != value or value < least:
            raise ValueError(f"{self.name}.{key} must be an integer >= {least}, got {value!r}")
        return int(value)

    def require(self, key: str, wanted: Any) -> None:
        """Takes a key that these presets know only one value of; False stands for nothing too."""
        value = self.take(key)
        if value != wanted and not (wanted is False and not value):
            raise ValueError(f"{self.name}.{key}={value} is not supported, only {wanted}")

    def finish(self) -> None:
        """Raises ValueError if a key is left that is switched on."""
        for key, value in self.values.items():
            if value and key not in _IGNORED_KEYS:
                raise ValueError(f"{self.name}.{key}={value} is not a known key of these presets")
