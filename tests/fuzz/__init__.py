"""Coverage-guided fuzzing of every reader of untrusted bytes: a clear error or a result (`make fuzz`)."""
