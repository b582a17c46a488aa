"""How the tables came to be what they are; run by `database.py` whenever a store is opened.

A change of `schema.py` brings a file in versions/, named by the next number, which alters tables that hold rows.
Files that were released never change and import nothing of this package.  There is no way down: an older program
refuses a newer database, and going back means restoring a backup.
"""
