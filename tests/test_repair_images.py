"""The images that benchmarks of repairs count on, and what they say of how sure a share is."""

import pytest
import torch

from benchmarks import repair_goals, repair_images, repairs
from sample_models.digits import load_digits


def test_each_test_image_is_drawn_as_often_and_keeps_its_label():
    drawn, test = repair_images.drawn(), load_digits("test")
    assert drawn.images.shape == (10_000, 1, 8, 8)
    assert torch.equal(drawn.labels[500:1000], test.labels)
    assert not torch.equal(drawn.images[:500], drawn.images[500:1000])
    near = torch.stack([(drawn.images[i::500] - test.images[i]).abs().mean() for i in range(20)])
    far = torch.stack([(drawn.images[i::500] - test.images[i + 1]).abs().mean() for i in range(20)])
    assert near.mean() < 0.7 * far.mean()


def test_copies_of_a_digit_are_no_independent_images():
    one = (torch.arange(500) % 4 > 0).double()
    found = repair_images.share(one.repeat(20))
    assert found.mean == 75 and abs(found.half - 3.8) < 0.05  # 196 * sqrt(0.75 * 0.25 / 500)
    assert repair_images.share(torch.ones(10_000).double()) == (100.0, 0.0)


def test_the_first_number_of_a_cell_is_read_with_its_sign():
    assert repair_goals.number("-0.25 ± 0.45 points") == -0.25
    assert repair_goals.number("+2.41 ± 0.74 points") == 2.41


def test_a_goal_is_reached_for_certain_if_the_whole_interval_is():
    assert repair_goals.certain("+2.04 ± 0.91 points", 0.0) == "yes"
    assert repair_goals.certain("+0.26 ± 0.42 points", 0.0) == "yes, not significant"
    assert repair_goals.certain("-0.25 ± 0.45 points", -0.5) == "yes, not significant"
    assert repair_goals.certain("-0.07 ± 0.19 points", -0.5) == "yes"
    assert repair_goals.certain("-0.60 ± 0.01 points", -0.5) == "no"


def test_a_part_that_needs_a_peer_is_not_written_without_it(monkeypatch, capsys):
    monkeypatch.setitem(repairs.NEEDS, "repairs-nncf", ("no_such_module", "no_such==1"))
    monkeypatch.setattr("sys.argv", ["repairs", "--only", "repairs-nncf"])
    with pytest.raises(SystemExit):
        repairs.main()
    assert "repairs-nncf needs no_such==1, which is not installed" in capsys.readouterr().err
