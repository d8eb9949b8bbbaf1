"""SmolLM2-135M-Instruct in numpy: a small real model whose KV the demo stores."""
