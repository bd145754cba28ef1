"""The full recipe behind ChatGPT on a small real model, on a laptop."""
