"""The job of the cluster tests."""

import re
import time

from faults.harness import Job

CONFIG = """
members:
  airbench:
    model: {name: airbench94, params: {widths: [4, 8, 8]}}
    augment:
      - {name: HorizontalFlip, params: {p: 0.5}}
    train: {epochs: 12, batch_size: 16, optimizer: {muon: {lr: 0.1}}}
  tutorial:
    model: {name: tutorial_cnn}
    train: {epochs: 3, batch_size: 16, optimizer: {lr: 0.02}}
folds: {num_folds: 3}
predict: {cascade: {calibration_size: 20, max_accuracy_drop: 0.3}}
machine: {threads_per_job: 1}
"""


class ClusterJob(Job):
    """The whole job, with more epochs and members than in the fault tests."""

    @classmethod
    def with_epochs(cls, folder, *options, epochs=12):
        config = CONFIG.replace("epochs: 12", f"epochs: {epochs}")
        return cls.new(folder, extra=options, config=config, num_train=300)

    def wait_for(self, process, pattern):
        """Wait for a pattern in the output; return the match."""
        while process.poll() is None:
            match = re.search(pattern, self.output())
            if match:
                return match
            time.sleep(0.05)
        raise AssertionError(f"the job ended without the output {pattern}:\n{self.output()}")

    def succeed(self, process=None):
        finished = self.wait(process or self.start())
        assert finished.status == 0, finished.output
