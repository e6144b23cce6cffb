"""The stages of an evaluation, in order: decode, score, explain. Each writes its part of the run directory."""
