"""Helpers that tests share: models, bundles, servers, cases."""
