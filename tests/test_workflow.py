"""What the stages decide by themselves; whole jobs are in test_end_to_end.py."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.submission.check import upload_instructions
from pipeline.config import Config
from pipeline.predictions import Predictions
from pipeline.runs.run_folder import RunFolder
from pipeline.workflow import DEFAULT_CONFIG, open_work


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("submissions"), "mine")
    run.begin(Config(seed=7), {}, {"recipe": "the recipe"})
    return run


def test_a_full_submission_comes_with_the_line_that_uploads_it(run):
    ids = np.arange(1, 300_001)
    run.save_test(Predictions(ids, np.full((len(ids), 2), 0.5, np.float32)), np.ones(len(ids), np.int64))

    assert upload_instructions(run, {"blend": {"accuracy": 0.91234, "accuracy_95": (0.90987, 0.9148)}}) == (
        "upload it: python run.py submit --run mine\n"
        "or by the client alone: kaggle competitions submit -c cifar-10 -f submissions/mine/submission.csv "
        "-m 'mine: the recipe, CV 0.9123 (0.9099 to 0.9148)'"
    )


def test_a_run_that_is_there_goes_on_with_its_own_recipe(run):
    assert open_work(None, Path("input"), "mine").config.seed == 7
    assert open_work(DEFAULT_CONFIG, Path("input"), "mine").config.seed == 0
    assert open_work(None, Path("input"), "other").run.name == "other"
    assert open_work(None, Path("input"), None).run.name == "quick"
