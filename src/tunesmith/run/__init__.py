"""A run: a recipe carried out, and the folder that holds everything to understand, resume, use and repeat it."""
