"""What a run will take, before a weight is loaded: memory by item, time and disk, and what would make it fit."""
