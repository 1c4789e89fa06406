"""Back up a fleet of PostgreSQL databases and prove every backup."""

__version__ = "0.1.0"
