"""Side-by-side runs against peers. Nothing here is a timed test."""
