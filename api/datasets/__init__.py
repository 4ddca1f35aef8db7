"""Datasets over HTTP: uploads, the records, previews."""
