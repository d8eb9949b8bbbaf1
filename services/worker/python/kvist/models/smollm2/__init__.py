"""SmolLM2-135M-Instruct in numpy: a small real model for the demo, for tests and for kvist.eval."""
