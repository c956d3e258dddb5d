"""The work itself: gather a context, generate a text, assemble pieces into files, keep drafts."""
