"""The names of the metrics, for command lines. Imports no torch.

`metrics.metric_main` registers a function under each of these names; more can be added there with
`register_metric`.
"""

from __future__ import annotations

from dnnlib.errors import UserError

# Recommended: all real images, none mirrored.
_FULL = ("fid50k_full", "kid50k_full", "pr50k3_full", "ppl2_wend", "is50k")
# Compatible with StyleGAN and StyleGAN2: at most 50,000 real images, mirrored as in training.
_LEGACY = ("fid50k", "kid50k", "pr50k3", "ppl_zfull", "ppl_wfull", "ppl_zend", "ppl_wend")
# Ten times cheaper, for use during training: 5,000 generated images. FID is biased upwards by
# that, so the numbers compare with each other only.
_CHEAP = ("fid5k", "kid5k")

METRIC_NAMES: tuple[str, ...] = _FULL + _LEGACY + _CHEAP

GENERATED_ONLY = ("ppl2_wend", "is50k", "ppl_zfull", "ppl_wfull", "ppl_zend", "ppl_wend")
"""Those that compare with nothing: they need no real images (but the labels, if there are any)."""


def parse_metrics(text: str) -> tuple[str, ...]:
    """Read a list of metrics from an option.

    Args:
        text: Names separated by commas; an empty text or `none` is the empty list.

    Returns:
        The names in the order given, each once.

    Raises:
        UserError: A name is unknown.
    """
    if text.strip().lower() in ("", "none"):
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METRIC_NAMES:
            raise UserError(
                f"there is no metric {name!r}; use none, or some of {', '.join(METRIC_NAMES)} "
                "separated by commas"
            )
    return names
