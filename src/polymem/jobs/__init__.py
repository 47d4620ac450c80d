"""The worker that runs durable background jobs."""
