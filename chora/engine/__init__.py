"""The work itself: build contents, artifacts and collections; validate, draft and retain them."""
