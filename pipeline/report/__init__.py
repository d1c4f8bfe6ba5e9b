"""What people look at: a run's folder -> one HTML page, the ledger -> a page over all runs."""
