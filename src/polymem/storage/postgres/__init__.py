"""PostgreSQL: the storage that many processes share."""
