"""From the journal into the store: one elected recorder a journal directory drains it, and tells who is gone."""
