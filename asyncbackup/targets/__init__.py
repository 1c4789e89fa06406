"""Secondary locations: a flat folder elsewhere, and the few things that are done there."""
