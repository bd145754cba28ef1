"""RLHF as one distributed system: demonstrations, comparisons, PPO, people, and again."""

__version__ = "0.1.0"
