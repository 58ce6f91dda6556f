"""Complete, trainable models: what `avalon train` runs, and examples of how models are written."""
