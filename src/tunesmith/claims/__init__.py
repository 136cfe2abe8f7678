"""Claims of papers as experiments that anyone can run again."""
