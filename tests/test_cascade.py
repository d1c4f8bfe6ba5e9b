import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import CascadeConfig
from pipeline.executors.local import LocalExecutor
from pipeline.learning.device import Machine
from pipeline.predictions import Predictions, blend, weighted_mean
from pipeline.progress import progress_display
from pipeline.cascade import predict_cascade
from pipeline.runs.fold_folder import FoldFolder

NUM_IMAGES = 2000
ENSEMBLE = {"weights": {"good": 0.7, "fair": 0.3, "useless": 0.0}, "temperatures": {"good": 0.8, "fair": 1.2}}
CLASSES = np.random.default_rng(0).integers(10, size=NUM_IMAGES)
STORE = SimpleNamespace(ids=np.arange(1, NUM_IMAGES + 1))


class Job:
    """A fold whose net is a table of logits, one for each image and view."""

    views = "mirror_shift"
    num_asked = itertools.count(1)
    dies_at = None

    def __init__(self, name, fold, folder):
        self.name, self.fold, self.folder = name, fold, FoldFolder(folder / name / f"fold_{fold}")

    def __str__(self):
        return f"{self.name} {self.fold}"

    def predict_test(self, machine, store, asked, live):
        ids = store.ids[asked.rows]
        if self.folder.has_test(asked.name, 0, ids):
            return
        if next(Job.num_asked) == Job.dies_at:
            raise KeyboardInterrupt
        self.folder.save_test(asked.name, 0, Predictions(ids, self.said(asked.rows, asked.views)))

    def said(self, rows, views):
        logits = np.zeros((len(rows), 10))
        for view in views:
            seed = hash((self.name == "good", self.fold, view.mirrored, view.shift)) % 2**32
            noise = np.random.default_rng(seed).normal(0, 1 if self.name == "good" else 1.5, size=(NUM_IMAGES, 10))
            logits += view.weight * (2.5 * np.eye(10)[CLASSES] + noise)[rows]
        powers = np.exp(logits / sum(view.weight for view in views))
        return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


HERE = LocalExecutor(Machine())


@pytest.fixture(autouse=True)
def _count_anew():
    Job.num_asked, Job.dies_at = itertools.count(1), None


def predict(folder, **selective):
    jobs = [Job(name, fold, folder) for name in ("fair", "good", "useless") for fold in range(3)]
    held_out = Predictions(np.arange(NUM_IMAGES), jobs[3].said(np.arange(NUM_IMAGES), everything_of(jobs[3])))
    config = CascadeConfig(**selective) if selective else None
    with progress_display() as view:
        return predict_cascade(jobs, ENSEMBLE, STORE, HERE, view, selective=config, seed=1, held_out=held_out)


def everything_of(job):
    from pipeline.learning.predict import tta_views

    return tta_views(job.views)


def test_everything_is_the_blend_of_the_means_over_folds(tmp_path):
    found = predict(tmp_path)
    rows, members = np.arange(NUM_IMAGES), {}
    for name in ("good", "fair"):
        folds = [Job(name, fold, tmp_path) for fold in range(3)]
        said = [Predictions(STORE.ids, job.said(rows, everything_of(job))) for job in folds]
        members[name] = weighted_mean([p.at_temperature(ENSEMBLE["temperatures"][name]) for p in said], [1, 1, 1])
    expected = blend(members, {"good": 0.7, "fair": 0.3})

    assert np.allclose(found.blended.probabilities, expected.probabilities, atol=1e-6)
    assert found.passes.tolist() == [36] * NUM_IMAGES
    assert not (tmp_path / "useless").exists()


def test_few_passes_give_nearly_the_same_answers(tmp_path):
    whole = predict(tmp_path / "whole").blended.probabilities
    found = predict(tmp_path / "few", sample=400, max_loss=0.001, max_forward_passes=36)
    few = found.blended.probabilities
    lost = (whole.max(1) - whole[np.arange(NUM_IMAGES), few.argmax(1)]).mean()

    assert lost < 0.005
    assert found.account["expected_loss"] <= 0.001
    assert {asked.get("refused_by_cap", 0) for asked in found.account["rounds"]} == {0}
    assert found.passes.mean() < 36 / 2
    assert found.passes.mean() == found.account["mean_passes"]
    assert (found.passes == 36).sum() >= 400
    assert [asked["images"] for asked in found.account["rounds"]] == [
        sum(found.passes[found.passes != 36] >= total) + (sum(found.passes == 36) - 400)
        for total in np.cumsum([asked["passes"] for asked in found.account["rounds"]])
    ]


@pytest.mark.parametrize("cap", [9.0, 9.3])
def test_the_cap_holds_whatever_is_lost(tmp_path, cap):
    found = predict(tmp_path, sample=400, max_loss=0.0, max_forward_passes=cap)

    assert cap - 1 < found.passes.mean() <= cap
    assert sum(asked.get("refused_by_cap", 0) for asked in found.account["rounds"]) > 0


def test_no_round_is_begun_without_images(tmp_path):
    found = predict(tmp_path, sample=400, max_loss=1.0, max_forward_passes=36)

    assert [asked["images"] for asked in found.account["rounds"]] == [NUM_IMAGES - 400]


def test_few_test_images_get_everything(tmp_path):
    found = predict(tmp_path, sample=401)

    assert set(found.passes.tolist()) == {36}
    assert "expected_loss" not in found.account


@pytest.mark.parametrize("dies_at", [1, 5, 13, 15])
def test_a_stop_at_any_place_changes_no_byte(tmp_path, dies_at):
    options = {"sample": 400, "max_loss": 0.001, "max_forward_passes": 36}
    whole = predict(tmp_path / "whole", **options)
    num_asked = next(Job.num_asked) - 1
    Job.num_asked, Job.dies_at = itertools.count(1), dies_at
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "killed", **options)
    again = predict(tmp_path / "killed", **options)

    assert next(Job.num_asked) - 1 == num_asked + 1
    assert again.blended.probabilities.tobytes() == whole.blended.probabilities.tobytes()
    assert again.passes.tolist() == whole.passes.tolist()


@pytest.mark.parametrize("selective", [{}, {"sample": 200}], ids=["everything", "selective"])
def test_agreement_is_that_of_whole_nets_on_the_same_images(tmp_path, selective):
    found = predict(tmp_path, **selective).account["agreement"]
    jobs = [Job(name, fold, tmp_path) for fold in range(3) for name in ("good", "fair")]
    shares = np.array(found["shares"])

    assert found["images"] == (200 if selective else NUM_IMAGES)
    assert found["nets"] == [str(job) for job in jobs]
    assert np.array_equal(shares, shares.T)
    assert np.array_equal(np.diag(shares), np.ones(6))
    if not selective:
        said = [job.said(np.arange(NUM_IMAGES), everything_of(job)).argmax(1) for job in jobs]
        assert shares[0, 1] == pytest.approx((said[0] == said[1]).mean(), abs=1e-3)
