"""The use cases of a memory server, named by verbs."""
