"""Procedurally drawn portraits, genuine and forged, for the offline demonstration of deepdetect.

`person` and `scene` draw the parameters, `face` and `hair` paint the portrait, `forgery` manipulates it,
`camera` takes the picture, and `example` joins them into one labelled picture.
"""
