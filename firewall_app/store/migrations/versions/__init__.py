"""One file per version of the schema, each leading on from the one before."""
