"""One whole job opens, decodes and evaluates everything once, and does not read back what it has just written."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIG, NUM_TEST, NUM_TRAIN

from pipeline import workflow
from pipeline.data import kaggle_files, source
from pipeline.learning import models
from pipeline.run_context import open_context
from pipeline.task import CIFAR10


@pytest.fixture
def calls(monkeypatch):
    """Count the calls of some functions by name."""
    counts = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(source, "find_source_or_none")
    count(kaggle_files, "decode_png")
    count(workflow, "evaluate")
    count(models.timm, "create_model")
    load = np.load

    def recorded_load(file, *args, **kwargs):
        path = file if isinstance(file, str | Path) else file.name
        counts[f"load {path}"] += 1
        return load(file, *args, **kwargs)

    monkeypatch.setattr(np, "load", recorded_load)
    return counts


@pytest.mark.slow
def test_whole_job_does_everything_once(calls, zip_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        CONFIG.replace("jobs: 1", "jobs: 1, threads_per_job: 1") + f"images: {{cache_dir: {tmp_path}}}\n"
    )
    result = workflow.run_all(open_context(CIFAR10, config_path=tmp_path / "tiny.yaml", input_dir=zip_folder))
    loaded = [name.removeprefix("load ") for name in calls if name.startswith("load ")]
    predictions = [name for name in loaded if name.endswith(".npz")]

    assert calls["find_source_or_none"] == 1
    assert calls["decode_png"] == NUM_TRAIN + NUM_TEST
    assert calls["evaluate"] == 1
    assert predictions == []
    assert {name: calls[f"load {name}"] for name in loaded} == dict.fromkeys(loaded, 1)
    assert len(list(tmp_path.glob("submissions/tiny/*/fold_*/test_logits/*.npz"))) > 0
    assert len(result.test.predictions.ids) == NUM_TEST


@pytest.mark.slow
def test_resumed_job_predicts_nothing_again(calls, zip_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        CONFIG.replace("jobs: 1", "jobs: 1, threads_per_job: 1") + f"images: {{cache_dir: {tmp_path}}}\n"
    )
    options = {"config_path": tmp_path / "tiny.yaml", "input_dir": zip_folder}
    first = workflow.run_all(open_context(CIFAR10, **options))
    monkeypatch.setattr("pipeline.executors.fold_job.predict_slice", None)
    monkeypatch.setattr("pipeline.executors.fold_job.train_fold", None)
    second = workflow.run_all(open_context(CIFAR10, **options))

    assert calls["decode_png"] == NUM_TRAIN + NUM_TEST
    assert np.array_equal(first.test.predictions.logits, second.test.predictions.logits)
