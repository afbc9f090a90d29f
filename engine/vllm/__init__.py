"""Real vLLM replicas: Ray actors that serve vLLM's own OpenAI API. Importable without Ray and vLLM."""
