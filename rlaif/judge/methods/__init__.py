"""The ways to ask a judge which of two responses follows a principle better: a file each, and one table."""
