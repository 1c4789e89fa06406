"""Backups at secondary locations: getting them there, what stays there, and getting them back."""
