"""HTML reports: the page of a run, and the page over all runs."""
