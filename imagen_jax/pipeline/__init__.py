"""Stages and cascades to hold: loaded once, compiled once, called many times."""
