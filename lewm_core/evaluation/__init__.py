"""What a checkpoint knows, measured: one file a measure, on episodes that training never saw."""
