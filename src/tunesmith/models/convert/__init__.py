"""Converters: one format each, to a plain Hugging Face folder with safetensors."""
