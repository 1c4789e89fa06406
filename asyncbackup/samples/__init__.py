"""What the demonstration shows: sample databases, and a server for copies of their backups."""
