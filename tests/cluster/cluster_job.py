"""The job that the cluster's tests run."""

import re
import time

from faults.harness import Job

CONFIG = """
members:
  net:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    augment:
      - {name: HorizontalFlip, params: {p: 0.5}}
    train: {epochs: 12, batch_size: 16, optimizer: {muon: {lr: 0.1}}}
  tutorial:
    model: {name: tutorial_cnn}
    train: {epochs: 3, batch_size: 16, optimizer: {lr: 0.02}}
folds: {num_folds: 3}
predict: {selective: {sample: 20}}
machine: {num_threads: 1}
"""


class ClusterJob(Job):
    """The whole job, with more epochs and members than the one that is harmed."""

    @classmethod
    def with_epochs(cls, folder, *options, epochs=12):
        recipe = CONFIG.replace("epochs: 12", f"epochs: {epochs}")
        return cls.new(folder, extra=options, recipe=recipe, num_train=300)

    def wait_for(self, process, pattern):
        """Wait until the job says something; return the match."""
        while process.poll() is None:
            found = re.search(pattern, self.said())
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"it ended without saying {pattern}:\n{self.said()}")

    def succeed(self, process=None):
        ended = self.ended(process or self.start())
        assert ended.status == 0, ended.said
