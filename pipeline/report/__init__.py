"""HTML reports: the page of a run, and the page over all runs."""

import os

# Figures need no display; a notebook sets a backend that may not be installed here.
os.environ["MPLBACKEND"] = "agg"
