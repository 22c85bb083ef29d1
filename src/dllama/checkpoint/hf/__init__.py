"""A Hugging Face directory: config.json, safetensors, and what else of it counts."""
