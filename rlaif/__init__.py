"""rlaif: align a language model with AI feedback guided by a constitution, instead of human labels."""

__version__ = "0.1.0"
