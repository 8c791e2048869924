"""`lewm bench`: speed and memory beside a reference, alternating in one run."""
