"""Measurements on one machine or over a user's texts, kept with a bundle."""
