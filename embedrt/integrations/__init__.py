"""Adapters for other frameworks, one small module each; a module imports its framework, and needs it installed."""
