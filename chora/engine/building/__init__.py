"""Building: from a config to a stored text, to files, to a collection of files.

Every build goes through the same stages, each in a module of its own:

    gather       context.py, gather.py     the context, and everything else a text is made from
    recall       recall.py, fingerprint.py the skip rule: nothing is made that is unchanged
    make         generators, compose.py    the text
    store        content.py, ../outputs.py as a version, as files

content.py, artifact.py and collection.py run the stages for the three kinds of config.
"""
