"""Python imports this at startup from PYTHONPATH: KAGGLE_INPUT_DIR replaces /kaggle/input, and there is no network."""

import os
import runpy
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "no_network" / "sitecustomize.py"))


class _Mount(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        """Set NOTEBOOK_MOUNT after the import of the module that has it."""
        if name != "pipeline.data.source":
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.NOTEBOOK_MOUNT = Path(os.environ["KAGGLE_INPUT_DIR"])

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Mount())
