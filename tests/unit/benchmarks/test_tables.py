"""What is computed from measured figures before it is shown."""

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.core import contenders, quality
from benchmarks.core.chart import Axis, Scale, chart
from benchmarks.core.contenders import AUTOROUND, FAST, PAPER, Setting, cell, taking_part
from benchmarks.core.error import spread
from benchmarks.core.memory import flatness, projection
from benchmarks.core.speed import curve, geometric_mean, row, share_of_time
from benchmarks.core.texts import Text
from tests.tiny_models import make_tiny


def timed(seconds: list[list[float]], errors: list[list[float]]) -> dict[str, Any]:
    """Figures of a run whose blocks were judged at these seconds."""
    return {
        "seconds": 20.0,
        "block_errors": [0.01] * len(seconds),
        "blocks": [
            {"held_out_seconds": s, "held_out_error": e}
            for s, e in zip(seconds, errors, strict=True)
        ],
    }


def test_a_curve_has_a_point_an_epoch_and_the_end() -> None:
    figures = timed([[1, 2, 4], [2, 3, 5]], [[0.1, 0.04, 0.02], [0.4, 0.09, 0.08]])
    points = curve(figures)
    assert [seconds for seconds, _ in points] == [3, 5, 9, 20]
    assert [error for _, error in points] == pytest.approx([0.2, 0.06, 0.04, 0.01])


def test_a_block_that_stopped_early_ends_the_common_epochs() -> None:
    points = curve(timed([[1, 2, 3], [1, 2]], [[0.1, 0.1, 0.1], [0.1, 0.1]]))
    assert [seconds for seconds, _ in points] == [2, 4, 20]


def test_what_trains_nothing_has_only_its_end() -> None:
    ((seconds, error),) = curve(timed([[], []], [[], []]))
    assert seconds == 20.0 and error == pytest.approx(0.01)
    ((seconds, error),) = curve({"seconds": 3.0, "block_errors": [0.5]})
    assert seconds == 3.0 and error == pytest.approx(0.5)


def test_the_share_of_time_is_that_of_the_first_point_as_good() -> None:
    points = [(10.0, 0.3), (20.0, 0.2), (30.0, 0.1)]
    assert share_of_time(points, 100.0, 0.2) == pytest.approx(0.2)
    assert share_of_time(points, 100.0, 0.25) == pytest.approx(0.2)
    assert share_of_time(points, 100.0, 0.05) is None


def test_ratios_are_taken_within_a_round() -> None:
    """A machine twice as slow in the second round changes no ratio."""
    rounds = [
        {PAPER: [(100.0 * slow, 0.2)], FAST: [(10.0 * slow, 0.3), (25.0 * slow, 0.1)]}
        for slow in (1, 2)
    ]
    fast = row(FAST, rounds)
    assert fast["seconds"] == pytest.approx(37.5)
    assert fast["of paper's time"] == pytest.approx(0.25)
    assert fast["of paper's error"] == pytest.approx(0.5)
    assert fast["as good as paper after"] == pytest.approx(0.25)


def test_never_as_good_is_said_so() -> None:
    assert row(FAST, [{PAPER: [(9.0, 0.1)], FAST: [(1.0, 0.2)]}])["as good as paper after"] == (
        "never"
    )
    assert row(FAST, [{FAST: [(1.0, 0.2)]}])["as good as paper after"] is None


def test_geometric_mean() -> None:
    assert geometric_mean([0.01, 1.0]) == pytest.approx(0.1)
    assert geometric_mean([0.0]) > 0


def test_projection_of_the_measured_model_is_what_was_measured() -> None:
    measured = {"before MB": 500, "peak MB": 4500, "seconds a block": 900.0}
    small, _, large = projection(measured)
    assert small["peak GB, at most"] == 4.5
    assert small["hours, at least"] == small["hours, at most"] == 8.0
    assert large["peak GB, at most"] == pytest.approx(0.5 + 4 * (28672 / 11008) ** 2, abs=0.05)
    assert large["hours, at least"] < large["hours, at most"]


def test_flatness() -> None:
    assert flatness([{"peak MB": 1000}, {"peak MB": 1100}, {"peak MB": 1050}], "peak MB") == 1.1


def test_only_names_methods_or_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("rtn", PAPER, FAST, "nobody")
    assert taking_part(names, ()) == ["rtn", PAPER, FAST]
    assert "left out, not there: nobody" in capsys.readouterr().out
    assert taking_part(names, ("apiq-bw",)) == [PAPER, FAST]
    assert taking_part(names, (FAST, "rtn")) == ["rtn", FAST]


def test_the_peer_takes_part_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "AUTOROUND_PYTHON", tmp_path / "python")
    assert taking_part((AUTOROUND,), ()) == []
    (tmp_path / "python").touch()
    assert taking_part((AUTOROUND,), ()) == [AUTOROUND]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("setting")
    text = Text("text", folder / "calibrated.txt", folder / "scored.txt")
    text.calibrated.write_text("a")
    text.scored.write_text("b")
    return Setting(make_tiny(folder / "model"), text, (text,), samples=4)


def test_cells_hold_resolved_configs_so_that_a_default_is_its_value(setting: Setting) -> None:
    default = cell(FAST, setting, 2)
    assert default is not None
    config = default.config["quantize"]
    assert config["training"]["epochs"] == 2
    explicit = cell(FAST, setting, 2, rank=config["rank"])
    assert explicit is not None and explicit.key == default.key
    other = cell(FAST, setting, 2, rank=4)
    assert other is not None and other.key != default.key


def test_a_rank_that_a_method_does_not_take_leaves_it_out(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cell("rtn", setting, 2, rank=4) is None
    assert "left out: rtn at 2 bits, rank 4" in capsys.readouterr().out


def test_the_peer_draws_the_same_windows_and_has_no_adapter(setting: Setting) -> None:
    ours, peer = cell(FAST, setting, 2), cell(AUTOROUND, setting, 2)
    assert ours is not None and peer is not None
    assert peer.measure == "autoround" and peer.config["quantize"]["rank"] == 0
    assert peer.config["quantize"]["calibration"] == ours.config["quantize"]["calibration"]


def test_rows_of_the_quality_table() -> None:
    scores = {"text": {"perplexity": 50.0, "full_precision_perplexity": 30.0, "kl": 0.5}}
    figures = {
        "bits_per_weight": {"weights": 2.28, "adapter": 0.37, "total": 2.65},
        "file_bits_per_parameter": 5.5,
        "scores": scores,
    }
    measured = quality.row("name", 2, 8, figures)
    assert (measured["bits/w"], measured["file"]) == (2.65, 5.5)
    assert (measured["ppl text"], measured["kl text"]) == (50.0, 0.5)
    exact = quality.full_precision(figures)
    assert exact.keys() == measured.keys()
    assert (exact["bits/w"], exact["ppl text"], exact["kl text"]) == (16.0, 30.0, 0.0)


def test_bins_are_drawn_at_their_middle() -> None:
    figures = {"histograms": {"layer": {"Q": {"limit": 1.5, "shares": [0.2, 0.5, 0.3]}}}}
    assert spread(figures, "layer", "Q") == [(-1.0, 0.2), (0.0, 0.5), (1.0, 0.3)]
    assert spread(figures, "layer", "A") == []


def test_a_chart_is_svg_and_leaves_out_what_it_cannot_show(tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    points = {"a & b": [(1, 10.0), (2, 0.0), (3, math.inf), (4, 1000.0)], "none": [(1, math.nan)]}
    chart(path, "title", Axis("x"), Axis("y", log=True), points)
    root = ElementTree.fromstring(path.read_text())
    words = [element.text for element in root.iter() if element.text]
    assert "a & b" in words and "none" not in words
    assert len([e for e in root.iter() if e.tag.endswith("circle")]) == 3  # two, and the legend's


def test_nothing_to_draw_is_no_chart(tmp_path: Path) -> None:
    chart(tmp_path / "chart.svg", "title", Axis("x"), Axis("y"), {"empty": []})
    assert not (tmp_path / "chart.svg").exists()


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[1.0], [3.0, 70.0], [0.001, 9e5], [0.02, 0.021]])
def test_a_scale_encloses_its_values(values: list[float], log: bool) -> None:
    scale = Scale(values, Axis("x", log), 0, 100)
    assert 2 <= len(scale.ticks) <= 12
    assert all(0 <= scale.at(value) <= 100 for value in [*values, *scale.ticks])
