"""What the benchmark scripts do with the numbers of `benchmarks/RESULTS.md`."""

from pathlib import Path

import pytest
import torch

from benchmarks import bounds, cuda, results

MEASURED = (
    "# Measured\n\n<!-- cuda: begin -->\n## int8 on CUDA\n\n"
    "| what | kernel | qlab | against | its time | ratio | to reach |\n"
    "| --- | --- | --- | --- | --- | --- | --- |\n"
    "| linear 4096³ with quantize | triton | {} | bfloat16 matmul | 2.00 ms | 2.0 | ≥ 1.5 |\n"
    "<!-- cuda: end -->\n"
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "RESULTS.md"
    monkeypatch.setattr(results, "RESULTS", path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["cuda"])
    return path


def test_without_a_device_measured_rows_stay(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text(MEASURED.format("1.00 ms"))
    cuda.main()
    assert file.read_text() == MEASURED.format("1.00 ms")
    assert "what was measured on one stays" in capsys.readouterr().out


@pytest.mark.parametrize("before", [None, "# Measured\n", MEASURED.format("not measured")])
def test_without_a_device_nothing_is_claimed(file: Path, before: str | None):
    if before is not None:
        file.write_text(before)
    cuda.main()
    rows = results.read("cuda")
    assert [row["to reach"] for row in rows] == ["≥ 1.5", "≥ 1.0", "≥ 1.2", "≥ 0.83"]
    assert {row[part] for row in rows for part in ("qlab", "its time", "ratio")} == {"not measured"}
    assert "No number was measured" in file.read_text()
    assert file.read_text().count("<!-- cuda: begin -->") == 1


def test_a_part_is_replaced_between_its_markers_alone(file: Path):
    results.write("one", ["first"])
    results.write("two", results.table(["what", "", "ms"], [["a", "", "1"], ["b", "c", "2"]]))
    results.write("one", ["second"])
    assert file.read_text().startswith("# Measured\n\n<!-- one: begin -->\nsecond\n<!-- one: end")
    assert results.read("two")[0] == {"what": "a", "": "", "ms": "1"}
    assert results.read("none") == []


@pytest.mark.parametrize(
    ("alone", "verdict"), [(9.1e-3, "only other convolutions"), (8.9e-3, "what lies between them")]
)
def test_what_bounds_the_networks_follows_from_their_times(alone: float, verdict: str):
    resnet = {"qlab": 11e-3, "alone": alone, "torch.ao": 10e-3}
    mobile = {"qlab": 6e-3, "alone": 5e-3, "ONNX Runtime": 3.5e-3}
    times = {"ResNet": resnet, "MobileNetV2": mobile}
    text = bounds.networks(times, "alone", 25e-6, {"onednn": 40, "compiled": 9})
    assert "0.9 × torch.ao's time is 9.00 ms" in text and verdict in text
    assert "2.50 ms more than ONNX Runtime" in text and "40 such calls 1.00 ms" in text
    assert "around the layers takes 1.00 ms. The other 4.00 ms are computing" in text
