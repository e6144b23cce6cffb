"""Data sets: pictures with reference captions, from files or drawn."""
