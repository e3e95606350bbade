"""Captioned pictures: sources, transforms and the input pipeline; knows no text encoder."""
