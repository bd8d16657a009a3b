"""Jobs: work that outlives a page and a browser, done by worker processes, one at a time each."""
