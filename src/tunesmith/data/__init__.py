"""Rows: reading them from any file, finding out what they ask for, splitting them, and turning them into token ids."""
