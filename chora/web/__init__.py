"""What people and monitors look at in a browser: health, metrics, the status page."""
