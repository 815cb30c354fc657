from __future__ import annotations

from pathlib import Path

import pytest

from tests.learning.detection.proof import CASCADE, CONTROLS, Trial, compared, rises


@pytest.mark.slow
def test_the_second_stage_is_handed_better_boxes_than_the_first(tmp_path: Path) -> None:
    """ALGORITHMS.md §7: the overlap of stage inputs rises on trained weights; phantom nodules, 64 slices to learn from."""
    name = next(iter(CONTROLS))
    scores = compared(1, Trial(train=32, test=16, epochs=(8, 2)), str(tmp_path), {name: CASCADE})
    overlap = scores["overlap of the stages' boxes"]
    assert rises({stage: overlap[stage] for stage in ("before 1", "before 2", "before 3")})
    assert scores[name]["map_50"] > 0.5
