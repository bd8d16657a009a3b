"""What would have happened: the head of a run fitted anew after an edit of its rows."""
