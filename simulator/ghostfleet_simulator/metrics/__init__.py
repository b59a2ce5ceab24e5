"""What is measured, how each engine names it, and the text in which a scraper reads it."""
