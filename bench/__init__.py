"""The harness: data, training, scoring, running, command line."""
