"""Parts of which several pages are made."""
