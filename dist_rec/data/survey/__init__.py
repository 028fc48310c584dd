"""What a dataset looks like, for a person: facts of every split, what is between the splits, what tells a label by
itself, and a page of it all."""
