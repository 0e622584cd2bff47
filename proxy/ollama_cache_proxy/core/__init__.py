"""One exchange from top to bottom, and what it takes: what is asked, found, fetched, joined, told."""
