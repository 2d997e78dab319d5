"""``submit build`` and ``run --image=auto``: an image of this checkout's code on a published base of its packages."""
