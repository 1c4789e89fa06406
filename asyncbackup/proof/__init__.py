"""Reading backups again, and restoring them for a test."""
