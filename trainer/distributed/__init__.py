"""Which process this is, which strategy it uses, and how processes meet, agree and stop."""
