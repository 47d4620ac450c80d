"""Adapters of the storage, search and blob ports."""
