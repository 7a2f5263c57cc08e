"""Does a cheap metric know a robust architecture?"""
