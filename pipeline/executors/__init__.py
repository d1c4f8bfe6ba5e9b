"""ExecutorOptions jobs run: in this process, in one for each GPU, or on a Ray cluster. Jobs know nothing of it."""
