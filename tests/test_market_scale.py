"""The paper profile at the real sets' size, one step of every stage: `python -m pytest -m slow`, a quarter hour."""

import pytest

from ppcl.__main__ import main
from ppcl.disk import checkpoints


@pytest.mark.slow
def test_the_paper_profile_goes_through_one_step_of_every_stage_at_market_scale(tmp_path, capsys):
    data, run = str(tmp_path / "data"), tmp_path / "run"
    assert main(["data", "synthesise", "--scale", "market", "--out", data]) == 0
    assert main(["data", "check", "--data", data]) == 0
    assert "12936 pictures,  751 people" in capsys.readouterr().out
    stages = ("glrec", "backbone", "joint")
    few = [word for key in ("backbone.weights=none", *(f"{one}.steps=1" for one in stages)) for word in ("--set", key)]
    for stage in stages:
        assert main(["train", stage, "--profile", "paper", "--run", str(run), "--data", data, *few]) == 0
    header = checkpoints.header(run / "person/joint/ppcl/seed0/checkpoint.safetensors")
    assert header["finished"] and header["classes"] == 676
