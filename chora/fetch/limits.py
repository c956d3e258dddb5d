"""Limits on what a server may send, and how long connections are waited for and kept."""

READ_BYTES = 64 * 1024  # bytes of one read
HEAD_LIMIT = 64 * 1024  # bytes of a response head
LINE_LIMIT = 16 * 1024  # bytes of a line between the chunks of a body
INTERIM_LIMIT = 20  # responses of the 1xx kind before the real one
CONNECT_TIMEOUT = 10.0  # seconds to connect, TLS included
IDLE_LIMIT = 8  # idle connections
IDLE_TIME = 30.0  # seconds for which an idle connection is kept, unless the server says less
DRAIN_LIMIT = 64 * 1024  # bytes of an unwanted response that are read to keep its connection
