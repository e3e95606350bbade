"""Stages and text encoders where they are kept, from wherever a user keeps them."""
