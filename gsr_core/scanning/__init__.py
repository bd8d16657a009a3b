"""Which attribute misleads a classifier, asked of everything that is known of its inputs."""
