"""Restoring a database so that the old one is untouched until the new one is proven."""
