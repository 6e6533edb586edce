"""The paper's table 1 from the formulas of networks.paper_cost."""

from __future__ import annotations

import pytest

from networks.paper_cost import (
    PAPER_PRESETS,
    PUBLISHED_GMACS,
    PaperBlock,
    direct_values,
    fmm_values,
    generator_params,
    hypernetwork_macs,
    mapping_params,
    multi_scale_values,
    paper_cost,
    trunk_blocks,
)

ROWS = [
    (preset, resolution, gmacs)
    for preset, row in PUBLISHED_GMACS.items()
    for resolution, gmacs in row.items()
    if preset in PAPER_PRESETS
]

# The authors' configurations, every layer reading the coordinates.
ORIGINAL = {
    128: [PaperBlock(3, 512, 512, False), PaperBlock(4, 512, 512, True)],
    256: [PaperBlock(4, 512, 512, True), PaperBlock(4, 256, 256, True)],
    1024: [
        PaperBlock(4, 512, 512, True),
        PaperBlock(4, 256, 256, True),
        PaperBlock(2, 64, 64, True),
        PaperBlock(1, 32, 16, True),
    ],
}


@pytest.mark.parametrize(("preset", "resolution", "gmacs"), ROWS)
def test_published_gmacs_within_one_percent(preset: str, resolution: int, gmacs: float) -> None:
    macs = sum(line.macs for line in paper_cost(preset, resolution))
    assert macs / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_every_row_and_resolution_of_the_table_is_compared() -> None:
    assert len(ROWS) == 15


@pytest.mark.parametrize(
    ("preset", "resolution", "published", "tolerance"),
    [
        ("inr-latent", 256, 7.1e6, 0.003),
        # "M" = 2^20 in these two rows; see the module.
        ("inr-hyper", 256, 2055.5 * 2**20, 0.003),
        ("inr-fourier", 256, 2312.02 * 2**20, 0.003),
        ("inr-fmm", 256, 108.2e6, 0.02),
        ("inr-gan-vanilla", 128, 107.03e6, 0.003),
        ("inr-gan-vanilla", 256, 107.03e6, 0.003),
        ("inr-gan-vanilla", 1024, 117.3e6, 0.015),
    ],
)
def test_published_parameters_as_far_as_they_are_determined(
    preset: str, resolution: int, published: float, tolerance: float
) -> None:
    params = sum(line.params for line in paper_cost(preset, resolution))
    assert params == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize(
    ("resolution", "values", "shared", "params"),
    [
        (128, 130051, 3932160, 139.859e6),
        (256, 106502, 2555904, 114.345e6),
        (1024, 117788, 2596864, 125.954e6),
    ],
)
def test_counts_of_the_authors_configurations(
    resolution: int, values: int, shared: int, params: float
) -> None:
    assert multi_scale_values(ORIGINAL[resolution], skip_coords=True) == (values, shared)
    assert generator_params(values, shared) == pytest.approx(params, abs=500)


def test_without_coordinates_in_every_layer() -> None:
    assert multi_scale_values(ORIGINAL[128], skip_coords=False)[0] == 99331


def test_small_pieces_by_hand() -> None:
    assert mapping_params() == 512 * 1024 + 1024 + 2 * (1024 * 1024 + 1024) + 2 == 2624514
    assert hypernetwork_macs(10) == 512 * 1024 + 2 * 1024 * 1024 + 10 * 1024
    assert fmm_values(3, 5, rank=2) == 2 * (3 + 5) + 5
    assert direct_values(3, 5) == 20


def test_other_resolutions_follow_the_rule() -> None:
    assert trunk_blocks(512) == [(256, 4, 256), (512, 2, 64)]
    assert [side for side, _, _ in trunk_blocks(2048)] == [256, 512, 1024, 2048]
    with pytest.raises(ValueError, match="no row for inr-gan:"):
        paper_cost("inr-gan", 256)
