"""The web pages: health, metrics and the status page."""
