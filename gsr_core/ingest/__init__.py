"""From a user's files to a bundle, by one plan."""
