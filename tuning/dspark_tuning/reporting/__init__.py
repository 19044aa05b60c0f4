"""Tables, reports and the page: one table and one section model for every output."""
