"""Methods that train the whole network; the head's own are beside this folder."""
